//! A request's body that ends with an error once its client has sent nothing of it for too long. The time runs only
//! while somebody waits for the body: what the daemon takes for itself is not held against the client.

use axum::BoxError;
use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Sleep, sleep};

/// The client sent nothing for so long, while it owed more of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client sent nothing for {} s", .0.as_secs_f64())]
pub struct Stalled(Duration);

impl Stalled {
    /// True for the error that a stalled body ends with.
    pub fn caused(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<Self>())
    }
}

impl From<Stalled> for io::Error {
    fn from(stalled: Stalled) -> Self {
        Self::new(io::ErrorKind::TimedOut, stalled)
    }
}

/// The same body, which ends with [`Stalled`] when nothing of it comes for this long.
pub fn within(idle_max: Duration, body: Body) -> Body {
    Body::new(IdleBody { inner: body, idle_max, waiting: None, stalled: false })
}

struct IdleBody {
    inner: Body,
    idle_max: Duration,
    /// Runs since somebody waits for more.
    waiting: Option<Pin<Box<Sleep>>>,
    /// Nothing follows.
    stalled: bool,
}

impl HttpBody for IdleBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if this.stalled {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(context) {
            this.waiting = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(axum::Error::into_inner)));
        }
        let idle_max = this.idle_max;
        let waiting = this.waiting.get_or_insert_with(|| Box::pin(sleep(idle_max)));
        ready!(waiting.as_mut().poll(context));
        this.stalled = true;
        Poll::Ready(Some(Err(io::Error::from(Stalled(idle_max)).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.stalled || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use http_body_util::channel::Channel;
    use std::future::poll_fn;

    fn run<Done>(work: impl Future<Output = Done>) -> Done {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
    }

    #[test]
    fn what_comes_stops_the_clock_and_the_next_wait_begins_anew() {
        run(async {
            let (mut pieces, inner) = Channel::<Bytes>::new(1);
            let idle_max = Duration::from_secs(3600);
            let mut body = IdleBody { inner: Body::new(inner), idle_max, waiting: None, stalled: false };
            let mut deadlines = Vec::new();
            for piece in ["one", "two"] {
                let pending =
                    poll_fn(|context| Poll::Ready(Pin::new(&mut body).poll_frame(context).is_pending()));
                assert!(pending.await);
                deadlines.push(body.waiting.as_ref().unwrap().deadline());
                pieces.send_data(piece.into()).await.unwrap();
                assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), piece);
                assert!(body.waiting.is_none());
            }
            assert!(deadlines[0] < deadlines[1], "{deadlines:?}");
            drop(pieces);
            assert!(body.frame().await.is_none());
        });
    }

    #[test]
    fn a_body_of_which_nothing_comes_ends_with_a_timeout() {
        run(async {
            let (pieces, inner) = Channel::<Bytes>::new(1);
            let mut body = within(Duration::from_millis(10), Body::new(inner));
            let error = body.frame().await.unwrap().unwrap_err().into_inner();
            let error = error.downcast::<io::Error>().unwrap();
            assert_eq!((error.kind(), Stalled::caused(&error)), (io::ErrorKind::TimedOut, true));
            assert_eq!(error.to_string(), "the client sent nothing for 0.01 s");
            assert!(body.frame().await.is_none(), "the rest is not waited for");
            assert_eq!(Stalled(Duration::from_secs(30)).to_string(), "the client sent nothing for 30 s");
            drop(pieces);
        });
    }
}
