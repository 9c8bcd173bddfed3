use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::{sleep, timeout};

use super::super::listener::prepare;
use super::*;

const PATIENCE: &Patience = &Patience {
    progress: Duration::from_secs(30),
    acknowledgement: Duration::from_secs(120),
    remainder: Duration::from_secs(60),
};

#[tokio::test(start_paused = true)]
async fn a_peer_that_stops_reading_costs_one_deadline() {
    let (ours, mut theirs) = tokio::io::duplex(8);
    let mut io = ProgressIo::new(ours, PATIENCE, Arc::default());
    let begun = Instant::now();
    let error = io.write_all(&[0; 64]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert_eq!(begun.elapsed(), PATIENCE.progress);
    let mut taken = [0; 8];
    theirs.read_exact(&mut taken).await.unwrap();
}

/// Writes `kib` KiB to a peer that takes one KiB each second; returns the outcome and the seconds.
async fn write_slowly(kib: usize, demand: Option<Option<u64>>) -> (io::Result<()>, u64) {
    let (ours, mut theirs) = tokio::io::duplex(1024);
    let pace = Arc::new(Pace::default());
    let begun = Instant::now();
    let _demand = demand.map(|time_max| pace.demand(begun, time_max.map(Duration::from_secs)));
    let reader = async {
        let mut piece = [0; 1024];
        loop {
            sleep(Duration::from_secs(1)).await;
            if theirs.read_exact(&mut piece).await.is_err() {
                return;
            }
        }
    };
    let write = async {
        let mut io = ProgressIo::new(ours, PATIENCE, pace.clone());
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
    let mut io = ProgressIo::new(ours, PATIENCE, pace.clone());
    let begun = Instant::now();
    let cut = async {
        sleep(Duration::from_secs(3)).await;
        pace.cut(Cut::TooFarBehind);
    };
    let (outcome, ()) = tokio::join!(io.write_all(&[0; 64]), cut);
    assert!(outcome.is_err() && begun.elapsed().as_secs() == 3, "{outcome:?}");
}

/// Real time, as short as the kernel's clocks allow.
const IMPATIENCE: &Patience = &Patience {
    progress: Duration::from_secs(30),
    acknowledgement: Duration::from_secs(1),
    remainder: Duration::from_secs(2),
};

/// Both ends of a connection, the client with a small buffer.
async fn connected(pace: &Arc<Pace>) -> (ProgressIo<TcpStream>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpSocket::new_v4().unwrap();
    client.set_recv_buffer_size(16 * 1024).unwrap();
    let connecting = client.connect(listener.local_addr().unwrap());
    let (client, accepted) = tokio::join!(connecting, listener.accept());
    let ours = accepted.unwrap().0;
    prepare(&ours);
    (ProgressIo::new(ours, IMPATIENCE, pace.clone()), client.unwrap())
}

/// Takes so many bytes, at 20 KB/s.
async fn take_slowly(client: &mut TcpStream, bytes: usize) -> io::Result<()> {
    let mut piece = [0; 2_000];
    let mut rest = bytes;
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    while rest > 0 {
        pace.tick().await;
        match client.read(&mut piece).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            taken => rest = rest.saturating_sub(taken),
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_slow_client_with_a_small_window_is_not_taken_for_one_that_vanished() {
    let pace = Arc::new(Pace::default());
    for is_payload in [true, false] {
        let (mut io, mut client) = connected(&pace).await;
        let demand = is_payload.then(|| pace.demand(Instant::now(), None));
        let write = async { io.write_all(&vec![7; 4 << 20]).await };
        let read = take_slowly(&mut client, 100_000);
        tokio::select! {
            biased;
            read = read => assert!(read.is_ok(), "{read:?}, payload: {is_payload}"),
            written = write => panic!("{written:?}, payload: {is_payload}"),
        }
        drop(demand);
    }
}

/// A client may read slowly what the kernel still holds of a payload once no pace is demanded.
#[tokio::test]
async fn the_remainder_of_a_payload_is_read_in_its_own_time() {
    const BYTES: usize = 60_000;
    let pace = Arc::new(Pace::default());
    let (mut io, mut client) = connected(&pace).await;
    let demand = pace.demand(Instant::now(), None);
    io.write_all(&[7; BYTES]).await.unwrap();
    drop(demand);
    io.write_all(b":\n").await.unwrap();
    take_slowly(&mut client, BYTES + 2).await.unwrap();
}

/// Makes a client vanish: its kernel answers nothing.
#[cfg(target_os = "linux")]
fn vanish(client: &TcpStream) {
    const RETURN: u16 = 0x06;
    let drop_all = socket2::SockFilter::new(RETURN, 0, 0, 0);
    socket2::SockRef::from(client).attach_filter(&[drop_all]).unwrap();
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_client_that_vanished_is_noticed_also_after_a_payload() {
    let pace = Arc::new(Pace::default());
    for payload in [0, 50_000] {
        let (mut io, mut client) = connected(&pace).await;
        if payload > 0 {
            let demand = pace.demand(Instant::now(), None);
            let mut taken = vec![0; payload];
            let written = vec![7; payload];
            let (written, read) =
                tokio::join!(io.write_all(&written), client.read_exact(&mut taken));
            assert!(written.is_ok() && read.is_ok());
            drop(demand);
            sleep(IMPATIENCE.remainder).await;
        }
        vanish(&client);
        io.write_all(b":\n").await.unwrap();
        let ended = timeout(Duration::from_secs(10), io.read_u8()).await;
        let kind = ended.expect("the connection ends").unwrap_err().kind();
        assert_eq!(kind, io::ErrorKind::TimedOut);
    }
}

/// The client does not read, and its connection is cut while the relay writes to it or reads from
/// it.
#[tokio::test]
async fn what_a_client_has_not_taken_is_forgotten_whoever_notices_the_cut() {
    for is_writing in [true, false] {
        let pace = Arc::new(Pace::default());
        let (mut io, mut client) = connected(&pace).await;
        let large = vec![7; 4 << 20];
        let writing = timeout(Duration::from_millis(100), io.write_all(&large)).await;
        assert!(writing.is_err(), "the client reads nothing");
        pace.cut(Cut::TooFarBehind);
        let error = match is_writing {
            true => io.write_all(&large).await.unwrap_err(),
            false => io.read_u8().await.unwrap_err(),
        };
        assert_eq!(error.to_string(), Cut::TooFarBehind.as_str());
        drop(io);
        // A reset at once, although much was sent before.
        let end = async {
            let mut piece = vec![0; 64 * 1024];
            loop {
                match client.read(&mut piece).await {
                    Ok(0) => return None,
                    Ok(_) => {}
                    Err(error) => return Some(error.kind()),
                }
            }
        };
        assert_eq!(end.await, Some(io::ErrorKind::ConnectionReset), "writing: {is_writing}");
    }
}
