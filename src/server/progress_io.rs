//! A socket that ends the connection if the peer does not read what is sent, or sends too large a
//! head before it has shown a valid credential.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::pace::{Cut, Pace};

/// Time limits for the peer of a connection.
#[derive(Debug)]
pub(super) struct Patience {
    /// Longest time that the peer may leave sent data unread.
    pub(super) progress: Duration,
    /// Time without an acknowledgement after which the kernel ends a connection whose peer is not
    /// behind.
    pub(super) acknowledgement: Duration,
    /// Time that a peer that was behind has for what the kernel still holds for it.
    pub(super) remainder: Duration,
}

/// Answer to a head that is too large for a client without a valid credential. hyper cannot give
/// it: its own limit is the one for clients with a credential.
const HEAD_TOO_LARGE: &[u8] = b"HTTP/1.1 431 Request Header Fields Too Large\r\n\
    connection: close\r\ncontent-length: 0\r\n\r\n";

/// Operations that a connection needs of its socket, in addition to reading and writing.
pub(super) trait Transport: AsyncRead + AsyncWrite + Unpin {
    /// Makes the kernel drop what the peer has not taken when the connection ends, instead of
    /// keeping it for minutes.
    fn forget_unsent(&self);

    /// Makes the kernel end the connection after this time without an acknowledgement; `None`
    /// leaves the kernel's own limit of many minutes.
    fn bound_acknowledgement(&self, time: Option<Duration>);
}

impl Transport for TcpStream {
    fn forget_unsent(&self) {
        // If it fails, the kernel's own time-out ends the connection.
        let _ = self.set_zero_linger();
    }

    fn bound_acknowledgement(&self, time: Option<Duration>) {
        #[cfg(target_os = "linux")]
        {
            // If it fails, clients that vanished are noticed later.
            let _ = socket2::SockRef::from(self).set_tcp_user_timeout(time);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = time;
    }
}

#[cfg(test)]
impl Transport for tokio::io::DuplexStream {
    fn forget_unsent(&self) {}

    fn bound_acknowledgement(&self, _: Option<Duration>) {}
}

/// Fails a write that makes no progress within a deadline, or that is slower than the connection's
/// [`Pace`] demands. The timer exists only while a write waits for the peer.
#[derive(Debug)]
pub(super) struct ProgressIo<T> {
    inner: T,
    patience: &'static Patience,
    pace: Arc<Pace>,
    waiting: Option<Waiting>,
    /// Time at which the peer was last behind; `None` while the kernel watches acknowledgements.
    behind: Option<Instant>,
}

/// A write that waits for the peer.
#[derive(Debug)]
struct Waiting {
    since: Instant,
    ends: Pin<Box<Sleep>>,
}

impl<T: Transport> ProgressIo<T> {
    pub(super) fn new(inner: T, patience: &'static Patience, pace: Arc<Pace>) -> Self {
        inner.bound_acknowledgement(Some(patience.acknowledgement));
        Self { inner, patience, pace, waiting: None, behind: None }
    }

    /// Lets the kernel detect a vanished peer, but only while the peer is not behind.
    ///
    /// The kernel takes a peer with a small window for one that vanished: its timer runs until the
    /// head of its queue fits into the window as a whole, however much the peer reads in the
    /// meantime. While the peer is behind, the minimum pace and the progress limit decide.
    fn note_behind(&mut self, is_behind: bool) {
        match self.behind {
            None if !is_behind => {}
            None => {
                self.inner.bound_acknowledgement(None);
                self.behind = Some(Instant::now());
            }
            Some(_) if is_behind => self.behind = Some(Instant::now()),
            Some(last) if last.elapsed() >= self.patience.remainder => {
                self.inner.bound_acknowledgement(Some(self.patience.acknowledgement));
                self.behind = None;
            }
            Some(_) => {}
        }
    }

    fn judge(
        &mut self,
        outcome: Poll<io::Result<usize>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(result) = outcome {
            self.waiting = None;
            if let Ok(bytes) = result {
                let is_under_way = self.pace.took(bytes, Instant::now);
                self.note_behind(is_under_way);
            }
            return Poll::Ready(result);
        }
        self.note_behind(true);
        if let Some(why) = self.pace.why_cut(cx) {
            return self.cut_off(why);
        }
        let since = self.waiting.as_ref().map_or_else(Instant::now, |waiting| waiting.since);
        let progress_by = since + self.patience.progress;
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
            Poll::Ready(()) => {
                self.give_up(io::ErrorKind::TimedOut, "the client reads too slowly or not at all")
            }
        }
    }

    fn cut_off<R>(&self, why: Cut) -> Poll<io::Result<R>> {
        self.give_up(io::ErrorKind::ConnectionAborted, why.as_str())
    }

    /// Ends the connection and drops what the peer has not taken.
    fn give_up<R>(&self, kind: io::ErrorKind, why: &'static str) -> Poll<io::Result<R>> {
        self.inner.forget_unsent();
        Poll::Ready(Err(io::Error::new(kind, why)))
    }

    /// Reads at most `room` bytes of a head.
    fn poll_read_head(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        room: usize,
    ) -> Poll<io::Result<()>> {
        if room == 0 {
            // Best effort: a client that has not read its former answers may miss this one.
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
        if outcome.is_pending()
            && let Some(why) = this.pace.why_cut(cx)
        {
            return this.cut_off(why);
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
#[path = "progress_io_tests.rs"]
mod tests;
