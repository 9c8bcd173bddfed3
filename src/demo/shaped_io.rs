//! A TCP connection that can be frozen, slowed, cut or reset on command.
//!
//! Faults act here, below HTTP, so that they apply to every kind of response and the peer sees what
//! a broken network shows: no answer, a trickle, an end in the middle of a line.
//!
//! Invariant: while frozen, not one byte is read from or written to the socket.

use std::io::{self, IoSlice};
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// Rates from this number of bytes per second on are written in portions every [`PORTION_TIME`];
/// slower ones byte by byte.
const SINGLE_BYTES_BELOW: u32 = 20;

/// Interval of portions at higher rates, short enough to look like a steady trickle.
const PORTION_TIME: Duration = Duration::from_millis(50);

/// Divides a rate into portions: bytes at a time, and the pause after each portion.
pub fn portion(bytes_per_second: NonZeroU32) -> (usize, Duration) {
    let rate = bytes_per_second.get();
    if rate < SINGLE_BYTES_BELOW {
        return (1, Duration::from_secs(1) / rate);
    }
    let bytes = u64::from(rate) * PORTION_TIME.as_millis() as u64 / 1000;
    (saturated(bytes.max(1)), PORTION_TIME)
}

fn saturated(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// The control of one [`ShapedStream`].
#[derive(Clone, Debug, Default)]
pub(super) struct Shape(Arc<Mutex<Controls>>);

#[derive(Debug, Default)]
struct Controls {
    frozen: bool,
    bytes_per_second: Option<NonZeroU32>,
    /// Bytes that may still be written before the connection breaks.
    bytes_left: Option<u64>,
    reset_at_end: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    thaw: Vec<Waker>,
}

impl Controls {
    fn wake_all(&mut self) {
        let waiting = self.reader.take().into_iter().chain(self.writer.take());
        waiting.chain(self.thaw.drain(..)).for_each(Waker::wake);
    }
}

impl Shape {
    /// Stops or resumes all reading and writing. Nothing is lost.
    pub(super) fn set_frozen(&self, frozen: bool) {
        let mut controls = self.lock();
        controls.frozen = frozen;
        if !frozen {
            controls.wake_all();
        }
    }

    /// Limits the rate of writing from now on; `None` removes the limit.
    pub(super) fn set_rate(&self, bytes_per_second: Option<NonZeroU32>) {
        self.lock().bytes_per_second = bytes_per_second;
    }

    /// Breaks the connection after this number of further written bytes; `None` cancels that.
    pub(super) fn set_bytes_left(&self, bytes: Option<u64>) {
        self.lock().bytes_left = bytes;
    }

    /// Makes the connection end with a reset instead of an orderly close.
    pub(super) fn reset_at_end(&self) {
        self.lock().reset_at_end = true;
    }

    /// Waits until the connection is not frozen.
    pub(super) async fn thawed(&self) {
        std::future::poll_fn(|context| {
            let mut controls = self.lock();
            if controls.frozen {
                controls.thaw.push(context.waker().clone());
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
    }

    fn lock(&self) -> MutexGuard<'_, Controls> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection under the control of a [`Shape`].
#[derive(Debug)]
pub(super) struct ShapedStream {
    stream: TcpStream,
    shape: Shape,
    /// The pause between two portions of a slow connection.
    pause: Option<Pin<Box<Sleep>>>,
}

impl ShapedStream {
    /// Puts the connection under control.
    pub(super) fn new(stream: TcpStream, shape: Shape) -> Self {
        Self { stream, shape, pause: None }
    }

    /// The number of bytes that may be written at once, and the pause after them.
    fn allowance(&self, context: &Context<'_>) -> Poll<io::Result<(usize, Option<Duration>)>> {
        let mut controls = self.shape.lock();
        if controls.frozen {
            controls.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let (bytes, pause) = match controls.bytes_per_second.map(portion) {
            Some((bytes, pause)) => (bytes, Some(pause)),
            None => (usize::MAX, None),
        };
        let left = controls.bytes_left.map_or(usize::MAX, saturated);
        if left == 0 {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Poll::Ready(Ok((bytes.min(left), pause)))
    }

    fn note_written(&self, bytes: usize) {
        if let Some(left) = &mut self.shape.lock().bytes_left {
            *left = left.saturating_sub(bytes as u64);
        }
    }
}

impl AsyncRead for ShapedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        {
            let mut controls = self.shape.lock();
            if controls.frozen {
                controls.reader = Some(context.waker().clone());
                return Poll::Pending;
            }
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for ShapedStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    /// Passed on unchanged if nothing is limited, so that HTTP need not copy large payloads.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        let (allowed, pause) = ready!(self.allowance(context))?;
        let stream = Pin::new(&mut self.stream);
        let written = if allowed == usize::MAX {
            ready!(stream.poll_write_vectored(context, slices))?
        } else {
            let first =
                slices.iter().find(|slice| !slice.is_empty()).map_or(&[][..], |slice| slice);
            ready!(stream.poll_write(context, &first[..first.len().min(allowed)]))?
        };
        self.note_written(written);
        self.pause = pause.map(|pause| Box::pin(tokio::time::sleep_until(Instant::now() + pause)));
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.allowance(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.allowance(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Drop for ShapedStream {
    fn drop(&mut self) {
        if self.shape.lock().reset_at_end {
            // With no time to linger, the kernel sends a reset. If it refuses the option, the
            // connection ends normally.
            let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (ShapedStream, Shape, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let shape = Shape::default();
        (ShapedStream::new(server, shape.clone()), shape, client)
    }

    #[test]
    fn rates_become_portions() {
        let check = |rate, bytes, ms| {
            let expected = (bytes, Duration::from_millis(ms));
            assert_eq!(portion(NonZeroU32::new(rate).unwrap()), expected, "{rate}");
        };
        check(1, 1, 1000);
        check(10, 1, 100);
        check(20, 1, 50);
        check(1000, 50, 50);
        check(u32::MAX, 214_748_364, 50);
    }

    #[tokio::test]
    async fn frozen_means_silent_in_both_directions_and_thawing_loses_nothing() {
        let (mut server, shape, mut client) = pair().await;
        shape.set_frozen(true);
        client.write_all(b"ping").await.unwrap();
        let mut asked = [0; 4];
        let silent = Duration::from_millis(20);
        assert!(tokio::time::timeout(silent, server.read_exact(&mut asked)).await.is_err());
        assert!(tokio::time::timeout(silent, server.write_all(b"pong")).await.is_err());
        assert!(tokio::time::timeout(silent, shape.thawed()).await.is_err());
        let exchange = async {
            server.read_exact(&mut asked).await.unwrap();
            server.write_all(b"pong").await.unwrap();
        };
        let thaw = async {
            tokio::task::yield_now().await;
            shape.set_frozen(false);
            shape.thawed().await;
        };
        tokio::join!(exchange, thaw);
        let mut answered = [0; 4];
        client.read_exact(&mut answered).await.unwrap();
        assert_eq!((&asked, &answered), (b"ping", b"pong"));
    }

    #[tokio::test]
    async fn a_cut_lets_exactly_so_many_bytes_through() {
        let (mut server, shape, mut client) = pair().await;
        shape.set_bytes_left(Some(5));
        let error = server.write_all(b"0123456789").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        drop(server);
        let mut seen = Vec::new();
        client.read_to_end(&mut seen).await.unwrap();
        assert_eq!(seen, b"01234");
    }

    #[tokio::test]
    async fn a_slow_connection_takes_its_time() {
        let (mut server, shape, mut client) = pair().await;
        shape.set_rate(NonZeroU32::new(100));
        let begun = Instant::now();
        let mut seen = [0; 20];
        let (written, read) =
            tokio::join!(server.write_all(&[7; 20]), client.read_exact(&mut seen));
        written.unwrap();
        read.unwrap();
        // 20 bytes are four portions of five, so three pauses of 50 ms.
        assert!(begun.elapsed() >= Duration::from_millis(150), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn a_reset_is_seen_as_one() {
        let (server, shape, mut client) = pair().await;
        shape.reset_at_end();
        drop(server);
        let error = client.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
