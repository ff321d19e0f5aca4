//! A reply that goes on: newline-delimited JSON read value by value, with a limit on each line.

use super::{ClientError, LINE_MAX};
use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use std::marker::PhantomData;

/// The lines of a streamed reply (NDJSON), one value each.
pub struct Lines<Line> {
    call: String,
    body: Incoming,
    buffer: BytesMut,
    /// How much of the buffer is known to hold no line end.
    searched: usize,
    line: PhantomData<fn() -> Line>,
}

impl<Line: DeserializeOwned> Lines<Line> {
    pub(super) fn new(call: String, body: Incoming) -> Self {
        Self { call, body, buffer: BytesMut::new(), searched: 0, line: PhantomData }
    }

    /// The next value; `None` when the daemon ended the stream. Safe to drop and call again.
    ///
    /// # Errors
    /// [`ClientError`]; the stream is of no more use then.
    pub async fn next(&mut self) -> Result<Option<Line>, ClientError> {
        loop {
            if let Some(line) = self.buffered_line() {
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return self.parse(&line).map(Some);
            }
            if self.buffer.len() > LINE_MAX {
                return Err(ClientError::TooLarge { call: self.call.clone(), limit: LINE_MAX });
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.buffer.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new())),
                Some(Err(source)) => return Err(ClientError::Broken { call: self.call.clone(), source }),
                None if self.buffer.is_empty() => return Ok(None),
                None => {
                    let rest = self.buffer.split();
                    self.searched = 0;
                    return self.parse(&rest).map(Some);
                }
            }
        }
    }

    fn buffered_line(&mut self) -> Option<BytesMut> {
        let Some(end) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') else {
            self.searched = self.buffer.len();
            return None;
        };
        let line = self.buffer.split_to(self.searched + end);
        self.buffer.advance(1);
        self.searched = 0;
        Some(line)
    }

    fn parse(&self, line: &[u8]) -> Result<Line, ClientError> {
        let call = || self.call.clone();
        serde_json::from_slice(line).map_err(|source| ClientError::Language {
            call: call(),
            status: 200,
            source,
        })
    }
}
