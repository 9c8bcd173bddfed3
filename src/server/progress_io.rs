//! A socket that gives up on a peer which does not take what is sent to it, or which sends too
//! large a head before it has shown a valid credential.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::pace::Pace;

/// Answer to a head that is too large for a client without a valid credential. hyper cannot give
/// it: its own bound is that of clients with one.
const HEAD_TOO_LARGE: &[u8] = b"HTTP/1.1 431 Request Header Fields Too Large\r\n\
    connection: close\r\ncontent-length: 0\r\n\r\n";

/// What a connection needs of its socket beside reading and writing.
pub(super) trait Transport: AsyncRead + AsyncWrite + Unpin {
    /// Lets the kernel forget at the end of the connection what the peer has not taken, instead
    /// of keeping it for minutes.
    fn forget_unsent(&self);
}

impl Transport for TcpStream {
    fn forget_unsent(&self) {
        // If it fails, the kernel's own time-out ends the connection.
        let _ = self.set_zero_linger();
    }
}

#[cfg(test)]
impl Transport for tokio::io::DuplexStream {
    fn forget_unsent(&self) {}
}

/// Fails a write that makes no progress within a deadline, or that is slower than the
/// connection's [`Pace`] demands. The timer exists only while the peer makes us wait.
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

impl<T: Transport> ProgressIo<T> {
    pub(super) fn new(inner: T, deadline: Duration, pace: Arc<Pace>) -> Self {
        Self { inner, deadline, pace, waiting: None }
    }

    fn judge(
        &mut self,
        outcome: Poll<io::Result<usize>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(result) = outcome {
            self.waiting = None;
            if let Ok(bytes) = result {
                self.pace.took(bytes, Instant::now);
            }
            return Poll::Ready(result);
        }
        if self.pace.is_cut(cx) {
            return self.give_up("the client is too far behind");
        }
        let since = self.waiting.as_ref().map_or_else(Instant::now, |waiting| waiting.since);
        let progress_by = since + self.deadline;
        let by = self.pace.send_until().map_or(progress_by, |by| by.min(progress_by));
        let waiting = self
            .waiting
            .get_or_insert_with(|| Waiting { since, ends: Box::pin(tokio::time::sleep_until(by)) });
        // The demand can change during the wait.
        if waiting.ends.deadline() != by {
            waiting.ends.as_mut().reset(by);
        }
        match waiting.ends.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => self.give_up("the client reads too slowly or not at all"),
        }
    }

    fn give_up(&self, why: &'static str) -> Poll<io::Result<usize>> {
        self.inner.forget_unsent();
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)))
    }

    /// Reads no more than the rest of what a head may have.
    fn poll_read_head(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        room: usize,
    ) -> Poll<io::Result<()>> {
        if room == 0 {
            // At best: a client that has not read its former answers may miss this one.
            let _ = Pin::new(&mut self.inner).poll_write(cx, HEAD_TOO_LARGE);
            let too_large = "the head is too large for a client without a valid credential";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, too_large)));
        }
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(room.min(buf.remaining())));
        let outcome = Pin::new(&mut self.inner).poll_read(cx, &mut part);
        let count = part.filled().len();
        buf.advance(count);
        outcome
    }
}

impl<T: Transport> AsyncRead for ProgressIo<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let outcome = match this.pace.head_room() {
            Some(room) => this.poll_read_head(cx, buf, room),
            None => Pin::new(&mut this.inner).poll_read(cx, buf),
        };
        let count = buf.filled().len() - before;
        if count > 0 {
            this.pace.hear(count);
        }
        if outcome.is_pending() && this.pace.is_cut(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        outcome
    }
}

impl<T: Transport> AsyncWrite for ProgressIo<T> {
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

    /// Writes so many KiB to a peer that takes one KiB each second; tells after how many seconds
    /// it ended.
    async fn write_slowly(kib: usize, demand: Option<Option<u64>>) -> (io::Result<()>, u64) {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let pace = Arc::new(Pace::default());
        let begun = Instant::now();
        let _demand = demand.map(|time_max| pace.demand(begun, time_max.map(Duration::from_secs)));
        let reader = async {
            let mut piece = [0; 1024];
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if theirs.read_exact(&mut piece).await.is_err() {
                    return;
                }
            }
        };
        let write = async {
            let mut io = ProgressIo::new(ours, DEADLINE, pace.clone());
            let outcome = io.write_all(&vec![0; kib * 1024]).await;
            (outcome, begun.elapsed().as_secs())
        };
        tokio::join!(write, reader).0
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_peer_that_reads_is_kept_unless_more_is_demanded() {
        let (outcome, after) = write_slowly(500, None).await;
        assert!(outcome.is_ok() && after == 499, "{outcome:?} after {after} s");
        let (outcome, after) = write_slowly(500, Some(None)).await;
        assert!(outcome.is_err() && (31..40).contains(&after), "{outcome:?} after {after} s");
        let (outcome, after) = write_slowly(500, Some(Some(10))).await;
        assert!(outcome.is_err() && after == 10, "{outcome:?} after {after} s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_cut_ends_while_it_waits() {
        let (ours, _theirs) = tokio::io::duplex(8);
        let pace = Arc::new(Pace::default());
        let mut io = ProgressIo::new(ours, DEADLINE, pace.clone());
        let begun = Instant::now();
        let cut = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            pace.cut();
        };
        let (outcome, ()) = tokio::join!(io.write_all(&[0; 64]), cut);
        assert!(outcome.is_err() && begun.elapsed().as_secs() == 3, "{outcome:?}");
    }
}
