//! A socket that gives up on a peer which does not take what is sent to it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::pace::Pace;

/// Fails a write that makes no progress within a deadline, or that is not done when the
/// connection's [`Pace`] demands it. The timer exists only while the peer makes us wait.
#[derive(Debug)]
pub(super) struct ProgressIo<T> {
    inner: T,
    deadline: Duration,
    pace: Arc<Pace>,
    waiting: Option<Waiting>,
}

/// A write that the peer makes wait.
#[derive(Debug)]
struct Waiting {
    since: Instant,
    ends: Pin<Box<Sleep>>,
}

impl<T> ProgressIo<T> {
    pub(super) fn new(inner: T, deadline: Duration, pace: Arc<Pace>) -> Self {
        Self { inner, deadline, pace, waiting: None }
    }

    fn judge<R>(
        &mut self,
        outcome: Poll<io::Result<R>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<R>> {
        if outcome.is_ready() {
            self.waiting = None;
            return outcome;
        }
        let since = self.waiting.as_ref().map_or_else(Instant::now, |waiting| waiting.since);
        let progress_by = since + self.deadline;
        let by = self.pace.send_until().map_or(progress_by, |by| by.min(progress_by));
        let waiting = self
            .waiting
            .get_or_insert_with(|| Waiting { since, ends: Box::pin(tokio::time::sleep_until(by)) });
        // What is demanded can change while we wait.
        if waiting.ends.deadline() != by {
            waiting.ends.as_mut().reset(by);
        }
        waiting.ends.as_mut().poll(cx).map(|()| {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the client reads too slowly or not at all",
            ))
        })
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for ProgressIo<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let outcome = Pin::new(&mut this.inner).poll_read(cx, buf);
        if buf.filled().len() > before {
            this.pace.hear();
        }
        outcome
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for ProgressIo<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.inner).poll_write(cx, buf);
        this.judge(outcome, cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.inner).poll_write_vectored(cx, bufs);
        this.judge(outcome, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_stops_reading_costs_one_deadline() {
        let (ours, mut theirs) = tokio::io::duplex(8);
        let mut io = ProgressIo::new(ours, DEADLINE, Arc::default());
        let begun = Instant::now();
        let error = io.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed(), DEADLINE);
        let mut taken = [0; 8];
        theirs.read_exact(&mut taken).await.unwrap();
    }

    /// Writes 64 bytes to a peer that takes one every 20 s, while something is demanded.
    async fn write_slowly(demanded: Option<u64>, lifted_after: u64) -> (io::Result<()>, u64) {
        let (ours, mut theirs) = tokio::io::duplex(8);
        let pace = Arc::new(Pace::default());
        let begun = Instant::now();
        pace.limit_sending(demanded.map(|seconds| begun + Duration::from_secs(seconds)));
        let reader = async {
            for _ in 0..64 {
                tokio::time::sleep(Duration::from_secs(20)).await;
                let _ = theirs.read_u8().await;
                if begun.elapsed() >= Duration::from_secs(lifted_after) {
                    pace.limit_sending(None);
                }
            }
        };
        let write = async {
            let mut io = ProgressIo::new(ours, DEADLINE, pace.clone());
            let outcome = io.write_all(&[0; 64]).await;
            (outcome, begun.elapsed().as_secs())
        };
        tokio::join!(write, reader).0
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_peer_that_reads_is_kept_unless_more_is_demanded() {
        let whole = 56 * 20;
        let (outcome, after) = write_slowly(None, 0).await;
        assert!(outcome.is_ok() && after == whole, "{outcome:?} after {after} s");
        let (outcome, after) = write_slowly(Some(105), 10_000).await;
        assert!(outcome.is_err() && after == 105, "{outcome:?} after {after} s");
        let (outcome, after) = write_slowly(Some(105), 100).await;
        assert!(outcome.is_ok() && after == whole, "{outcome:?} after {after} s");
    }
}
