//! The upload of a signed version: its files read by a thread of their own and sent as they come, never held whole.

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

const BLOCK: usize = 256 * 1024;
const BLOCKS_AHEAD: usize = 4;

/// A signed version on its way to the store.
pub struct Bundle<Content> {
    /// The DSSE envelope with the manifest.
    pub envelope: Vec<u8>,
    /// The bytes of every file, one after the other in the manifest's order.
    pub content: Content,
    /// How many bytes `content` gives, exactly.
    pub length: u64,
}

/// A request body of known length, fed by a reading thread.
pub(super) struct Upload {
    blocks: mpsc::Receiver<io::Result<Bytes>>,
    left: u64,
}

impl Upload {
    /// Starts the reading thread; it ends with the content, or when the body is dropped.
    pub(super) fn start<Content>(envelope_length: u32, bundle: Bundle<Content>) -> Self
    where
        Content: Read + Send + 'static,
    {
        let mut head = envelope_length.to_be_bytes().to_vec();
        head.extend_from_slice(&bundle.envelope);
        let left = head.len() as u64 + bundle.length;
        let (sender, blocks) = mpsc::channel(BLOCKS_AHEAD);
        let mut source = Read::chain(io::Cursor::new(head), bundle.content);
        tokio::task::spawn_blocking(move || while send_block(&mut source, &sender) {});
        Self { blocks, left }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let wrong = |what| Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::InvalidData, what))));
        match self.blocks.poll_recv(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error))),
            Poll::Ready(None) if self.left > 0 => wrong("the files are shorter than the manifest says"),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(Ok(block))) => match self.left.checked_sub(block.len() as u64) {
                Some(left) => {
                    self.left = left;
                    Poll::Ready(Some(Ok(Frame::data(block))))
                }
                None => wrong("the files are longer than the manifest says"),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Reads one block and hands it over; false at the end, after an error, or when nobody wants more.
fn send_block(source: &mut dyn Read, blocks: &mpsc::Sender<io::Result<Bytes>>) -> bool {
    let mut block = vec![0; BLOCK];
    match source.read(&mut block) {
        Ok(0) => false,
        Ok(count) => {
            block.truncate(count);
            blocks.blocking_send(Ok(block.into())).is_ok()
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => true,
        Err(error) => {
            // Nobody listens when the call was given up.
            let _ = blocks.blocking_send(Err(error));
            false
        }
    }
}
