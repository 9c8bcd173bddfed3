//! A TCP proxy that keeps its port and fails on command: stands in front of databases and of
//! upstream.
//!
//! Conditions apply to both directions of all connections, also of those that are open. It knows
//! nothing of what it carries.
//!
//! Invariant: a connection that lost bytes in a black hole never carries a byte again; it is
//! silent until it is cut.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use pilotlight::testing::demo::kept_port::KeptPort;
use pilotlight::testing::demo::shaped_io::portion;
use pilotlight::testing::tasks::TaskGroup;

/// Bytes carried at once.
const PIECE_BYTES: usize = 16 * 1024;

/// Connections at a time; more are dropped. Each costs two sockets.
const CONNECTIONS_MAX: usize = 10_000;

/// What happens to bytes on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Open,
    /// Held back, nothing is lost.
    Frozen,
    /// Read and thrown away.
    BlackHole,
}

/// One end of the proxied connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who connects to the proxy.
    Client,
    /// What the proxy connects to.
    Upstream,
}

#[derive(Clone, Copy, Debug)]
struct Conditions {
    upstream: SocketAddr,
    gate: Gate,
    delay: Duration,
    bytes_per_second: Option<NonZeroU32>,
    /// The same for all connections together.
    line_bytes_per_second: Option<NonZeroU32>,
    /// How often the writing side towards the client, and towards upstream, was shut down.
    half_closed: [u32; 2],
}

/// A running proxy. Cheap to clone; ends with its last handle.
#[derive(Clone, Debug)]
pub struct FlakyProxy {
    shared: Arc<Shared>,
    /// Never touched: aborts the tasks when the last handle goes.
    _tasks: Arc<TaskGroup>,
}

#[derive(Debug)]
struct Shared {
    port: KeptPort,
    conditions: watch::Sender<Conditions>,
    /// Cancelled by [`FlakyProxy::cut`] and replaced.
    cut: Mutex<CancellationToken>,
    accepted: watch::Sender<usize>,
    open: AtomicUsize,
    /// When the line is free again, towards the client and towards upstream.
    line_free: [Mutex<Option<Instant>>; 2],
    /// Bytes carried so far, towards the client and towards upstream.
    carried: [AtomicU64; 2],
}

impl FlakyProxy {
    /// A proxy on a free loopback port. To be called within a tokio runtime.
    pub fn start(upstream: SocketAddr) -> io::Result<Self> {
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), upstream)
    }

    /// A proxy on that address. To be called within a tokio runtime.
    pub fn start_at(listen: SocketAddr, upstream: SocketAddr) -> io::Result<Self> {
        let port = KeptPort::reserve(listen)?;
        port.open()?;
        let conditions = Conditions {
            upstream,
            gate: Gate::Open,
            delay: Duration::ZERO,
            bytes_per_second: None,
            line_bytes_per_second: None,
            half_closed: [0, 0],
        };
        let shared = Arc::new(Shared {
            port,
            conditions: watch::Sender::new(conditions),
            cut: Mutex::default(),
            accepted: watch::Sender::new(0),
            open: AtomicUsize::new(0),
            line_free: Default::default(),
            carried: Default::default(),
        });
        let mut tasks = TaskGroup::new(&CancellationToken::new());
        tasks.spawn("flaky proxy", |cancel| accept_connections(shared.clone(), cancel));
        Ok(Self { shared, _tasks: Arc::new(tasks) })
    }

    /// Where it listens; stays the same for its whole life.
    pub fn address(&self) -> SocketAddr {
        self.shared.port.address()
    }

    /// Works as it should: listens, carries everything at full speed. To be called within a
    /// tokio runtime.
    pub fn pass(&self) -> io::Result<()> {
        self.change(|conditions| {
            conditions.gate = Gate::Open;
            conditions.delay = Duration::ZERO;
            conditions.bytes_per_second = None;
            conditions.line_bytes_per_second = None;
        });
        self.shared.port.open()
    }

    /// Connects new connections to another address.
    pub fn set_upstream(&self, upstream: SocketAddr) {
        self.change(|conditions| conditions.upstream = upstream);
    }

    /// Refuses new connections; open ones go on.
    pub fn refuse(&self) {
        self.shared.port.close();
    }

    /// Cuts all open connections; new ones are accepted.
    pub fn cut(&self) {
        let fresh = CancellationToken::new();
        let mut held = self.shared.cut.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *held, fresh).cancel();
    }

    /// As when the peer's process dies: [`refuse`](Self::refuse) and [`cut`](Self::cut).
    pub fn kill(&self) {
        self.refuse();
        self.cut();
    }

    /// Accepts connections, reads and throws away, answers nothing.
    pub fn black_hole(&self) {
        self.change(|conditions| conditions.gate = Gate::BlackHole);
    }

    /// Holds all bytes back, in both directions; they go on with [`pass`](Self::pass).
    pub fn freeze(&self) {
        self.change(|conditions| conditions.gate = Gate::Frozen);
    }

    /// Carries every piece that much later.
    pub fn delay(&self, delay: Duration) {
        self.change(|conditions| conditions.delay = delay);
    }

    /// Carries at most so many bytes a second in each direction of each connection; 0 is taken
    /// as 1.
    pub fn limit(&self, bytes_per_second: u32) {
        let rate = NonZeroU32::new(bytes_per_second).unwrap_or(NonZeroU32::MIN);
        self.change(|conditions| conditions.bytes_per_second = Some(rate));
    }

    /// Carries at most so many bytes a second in each direction, all connections together: a slow
    /// line that they share. 0 is taken as 1.
    pub fn limit_line(&self, bytes_per_second: u32) {
        let rate = NonZeroU32::new(bytes_per_second).unwrap_or(NonZeroU32::MIN);
        self.change(|conditions| conditions.line_bytes_per_second = Some(rate));
    }

    /// Bytes carried to that side so far, over all connections.
    pub fn carried_bytes(&self, towards: Side) -> u64 {
        self.shared.carried[towards as usize].load(Ordering::Relaxed)
    }

    /// Ends what is sent *to* that side on all open connections; the other direction goes on.
    pub fn half_close(&self, towards: Side) {
        self.change(|conditions| conditions.half_closed[towards as usize] += 1);
    }

    /// Connections accepted so far.
    pub fn accepted_connections(&self) -> usize {
        *self.shared.accepted.borrow()
    }

    /// Connections that are open.
    pub fn open_connections(&self) -> usize {
        self.shared.open.load(Ordering::Acquire)
    }

    /// Waits until so many connections were accepted in all; false if that did not happen.
    pub async fn wait_for_accepted(&self, count: usize, within: Duration) -> bool {
        let mut accepted = self.shared.accepted.subscribe();
        let reached = accepted.wait_for(|accepted| *accepted >= count);
        tokio::time::timeout(within, reached).await.is_ok()
    }

    fn change(&self, change: impl FnOnce(&mut Conditions)) {
        self.shared.conditions.send_modify(change);
    }
}

async fn accept_connections(shared: Arc<Shared>, cancel: CancellationToken) {
    let begin = |client: TcpStream, connections: &mut TaskGroup| {
        let cut = shared.cut.lock().unwrap_or_else(PoisonError::into_inner).clone();
        shared.accepted.send_modify(|accepted| *accepted += 1);
        shared.open.fetch_add(1, Ordering::AcqRel);
        let shared = shared.clone();
        connections.spawn("flaky connection", |cancel| async move {
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                () = cut.cancelled() => {}
                () = carry(client, &shared) => {}
            }
            shared.open.fetch_sub(1, Ordering::AcqRel);
        });
    };
    shared.port.serve(CONNECTIONS_MAX, cancel, begin).await;
}

/// Carries one connection to its end.
async fn carry(client: TcpStream, shared: &Shared) {
    let mut conditions = shared.conditions.subscribe();
    if !is_past_freezing(&mut conditions).await {
        return;
    }
    let lost = AtomicBool::new(false);
    if conditions.borrow().gate == Gate::BlackHole {
        swallow(&client).await;
        return;
    }
    let address = conditions.borrow().upstream;
    let upstream = match TcpStream::connect(address).await {
        Ok(upstream) => upstream,
        Err(error) => {
            tracing::debug!(%error, %address, "no upstream");
            return;
        }
    };
    for stream in [&client, &upstream] {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection without TCP_NODELAY");
        }
    }
    let (from_client, to_client) = client.into_split();
    let (from_upstream, to_upstream) = upstream.into_split();
    let pump = |from, to, towards| {
        let conditions = conditions.clone();
        Pump { from, to, towards, shared, conditions, lost: &lost }.run()
    };
    let (up, down) = tokio::join!(
        pump(from_client, to_upstream, Side::Upstream),
        pump(from_upstream, to_client, Side::Client)
    );
    for ended in [up, down] {
        if let Err(error) = ended {
            tracing::debug!(%error, "a proxied connection broke");
        }
    }
}

/// Reads and forgets until the peer ends or the connection is cut.
async fn swallow(stream: &TcpStream) {
    let mut waste = vec![0; PIECE_BYTES];
    while stream.readable().await.is_ok() {
        match stream.try_read(&mut waste) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    // The peer has gone; towards it nothing happens, as nothing comes out of a black hole.
}

/// Waits while frozen; false when the proxy has ended.
async fn is_past_freezing(conditions: &mut watch::Receiver<Conditions>) -> bool {
    conditions.wait_for(|conditions| conditions.gate != Gate::Frozen).await.is_ok()
}

/// One direction of one connection.
struct Pump<'a> {
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    towards: Side,
    shared: &'a Shared,
    conditions: watch::Receiver<Conditions>,
    /// Whether this connection lost bytes, in whichever direction.
    lost: &'a AtomicBool,
}

impl Pump<'_> {
    async fn run(mut self) -> io::Result<()> {
        let half_closed = self.half_closed();
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            if !is_past_freezing(&mut self.conditions).await {
                return Ok(());
            }
            if self.half_closed() != half_closed {
                self.to.shutdown().await?;
                return self.drain(piece).await;
            }
            tokio::select! {
                biased;
                changed = self.conditions.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    continue;
                }
                ready = self.from.readable() => ready?,
            }
            let count = match self.from.try_read(&mut piece) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            };
            if self.is_lost() {
                // Ends and bytes alike disappear; the peer learns nothing until it is cut.
                if count == 0 {
                    return std::future::pending().await;
                }
                continue;
            }
            if count == 0 {
                return self.to.shutdown().await;
            }
            self.forward(&piece[..count]).await?;
        }
    }

    /// Goes on reading so that the sender is not held up, and forgets what it reads.
    async fn drain(self, mut waste: Vec<u8>) -> io::Result<()> {
        loop {
            self.from.readable().await?;
            match self.from.try_read(&mut waste) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn forward(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let Conditions { delay, .. } = *self.conditions.borrow();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        while !bytes.is_empty() && is_past_freezing(&mut self.conditions).await {
            let rate = self.conditions.borrow().bytes_per_second;
            let (allowed, pause) = match rate.map(portion) {
                Some((allowed, pause)) => (allowed, Some(pause)),
                None => (usize::MAX, None),
            };
            let (now, later) = bytes.split_at(bytes.len().min(allowed));
            self.pass_line(now.len()).await;
            self.to.write_all(now).await?;
            self.shared.carried[self.towards as usize]
                .fetch_add(now.len() as u64, Ordering::Relaxed);
            bytes = later;
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
        }
        Ok(())
    }

    /// Waits until the line that all connections share has carried so many bytes. Each piece takes
    /// its place behind those that were there before.
    async fn pass_line(&self, bytes: usize) {
        let Some(rate) = self.conditions.borrow().line_bytes_per_second else { return };
        let took = Duration::from_secs_f64(bytes as f64 / f64::from(rate.get()));
        let carried = {
            let free = &self.shared.line_free[self.towards as usize];
            let mut free = free.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let begins = free.map_or(now, |free| free.max(now));
            *free.insert(begins + took)
        };
        tokio::time::sleep_until(carried).await;
    }

    fn is_lost(&self) -> bool {
        if self.conditions.borrow().gate == Gate::BlackHole {
            self.lost.store(true, Ordering::Release);
        }
        self.lost.load(Ordering::Acquire)
    }

    fn half_closed(&self) -> u32 {
        self.conditions.borrow().half_closed[self.towards as usize]
    }
}

#[cfg(test)]
#[path = "flaky_proxy_tests.rs"]
mod tests;
