//! Counts the bytes of connections, so that the progress of a call that transfers much data can be
//! measured.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A count of bytes. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    /// Bytes in both directions.
    moved: Arc<AtomicU64>,
    /// Bytes received by all meters of one group together.
    arrived: Arc<AtomicU64>,
}

impl Meter {
    /// A new meter of the same group.
    #[must_use]
    pub fn sibling(&self) -> Self {
        Self { moved: Arc::default(), arrived: self.arrived.clone() }
    }

    /// Bytes counted since it was made, in both directions.
    pub fn total(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Bytes that all meters of the group have received. Sent bytes are not counted: the kernel
    /// accepts them even for a database that hangs.
    pub fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// Counts received bytes.
    pub fn add_received(&self, bytes: usize) {
        self.add_sent(bytes);
        self.arrived.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn add_sent(&self, bytes: usize) {
        self.moved.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts the bytes of a stream.
    pub fn count<S>(&self, stream: S) -> Metered<S> {
        Metered { stream, meter: self.clone() }
    }
}

/// A stream whose bytes are counted.
#[derive(Debug)]
pub struct Metered<S> {
    stream: S,
    meter: Meter,
}

impl<S> Metered<S> {
    fn counted(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = written {
            self.meter.add_sent(bytes);
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.meter.add_received(buffer.filled().len().saturating_sub(before));
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.counted(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.counted(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn bytes_of_both_directions_count() {
        let (near, mut far) = tokio::io::duplex(64);
        let meter = Meter::default();
        let mut near = meter.count(near);
        near.write_all(b"question").await.unwrap();
        far.write_all(b"answer").await.unwrap();
        let mut answer = [0; 6];
        near.read_exact(&mut answer).await.unwrap();
        assert_eq!((&answer, meter.total()), (b"answer", 14));
        drop(far);
        assert_eq!(near.read(&mut answer).await.unwrap(), 0);
        assert!(near.write_all(b"more").await.is_err());
        assert_eq!(meter.clone().total(), 14);
    }

    #[test]
    fn a_group_counts_together_what_it_receives() {
        let meter = Meter::default();
        let sibling = meter.sibling();
        meter.add_received(5);
        sibling.add_received(2);
        sibling.add_sent(1);
        assert_eq!((meter.total(), sibling.total()), (5, 3));
        assert_eq!((meter.arrived(), sibling.arrived()), (7, 7));
        assert_eq!(Meter::default().arrived(), 0);
    }
}
