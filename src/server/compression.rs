//! Compression of answers (`[Http] enableCompression`).
//!
//! A compressor needs a few hundred kilobytes, so there is one for each processor, and clients wait
//! for one, but not long: an answer that is not compressed is better than a late one. What many
//! clients get is compressed once. Streams are not compressed: each would need a compressor for as
//! long as it is open.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use flate2::{Compress, Compression, Crc, FlushCompress, Status};
use hyper::HeaderMap;
use hyper::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HeaderValue, VARY};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::tasks;

/// Smaller answers fit into one packet anyway.
const COMPRESSED_BYTES_MIN: usize = 1024;

/// Answers up to this size are compressed on a thread of the runtime: that takes about a
/// millisecond.
const ON_THE_SPOT_BYTES_MAX: usize = 64 * 1024;

/// Longest wait for a compressor. It also bounds how many answers wait.
const WAIT_MAX: Duration = Duration::from_millis(200);

/// A gzip header that says nothing: deflate, no name, no time, any system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// The compressors of the process.
pub(super) struct Compressors {
    idle: Arc<Mutex<Vec<Compress>>>,
    turns: Arc<Semaphore>,
}

impl std::fmt::Debug for Compressors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressors").field("turns", &self.turns).finish_non_exhaustive()
    }
}

/// A body, and whether it is compressed.
#[derive(Clone, Debug)]
pub(super) struct Encoded {
    pub(super) body: Bytes,
    is_gzip: bool,
    /// True if the answer depends on what the client accepts.
    varies: bool,
}

impl Encoded {
    /// A body as it is.
    pub(super) fn plain(body: Bytes) -> Self {
        Self { body, is_gzip: false, varies: false }
    }

    /// Adds the headers that tell of the compression.
    pub(super) fn describe(&self, headers: &mut HeaderMap) {
        if self.is_gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        if self.varies {
            headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
        }
    }
}

impl Compressors {
    /// As many compressors as there are processors.
    pub(super) fn new(processors: usize) -> Self {
        Self { idle: Arc::default(), turns: Arc::new(Semaphore::new(processors)) }
    }

    /// Compresses a body if it is worth it and the client accepts that. `shared` keeps the result
    /// for all clients that get the same body.
    pub(super) async fn encode(
        &self,
        request: &HeaderMap,
        body: Bytes,
        shared: Option<&OnceLock<Bytes>>,
    ) -> Encoded {
        if body.len() < COMPRESSED_BYTES_MIN {
            return Encoded::plain(body);
        }
        let plain = |body| Encoded { body, is_gzip: false, varies: true };
        if !accepts_gzip(request) {
            return plain(body);
        }
        let done = || shared.and_then(OnceLock::get).cloned();
        let gzip = match done() {
            Some(gzip) => gzip,
            None => {
                let turn = tokio::time::timeout(WAIT_MAX, self.turns.clone().acquire_owned());
                // Closed never, so only the wait can fail.
                let Ok(turn) = turn.await else {
                    return plain(body);
                };
                match done() {
                    Some(gzip) => gzip,
                    None => self.compressed(&body, turn.ok()).await,
                }
            }
        };
        if let Some(shared) = shared {
            // Another one that was made meanwhile is as good.
            let _ = shared.set(gzip.clone());
        }
        Encoded { body: gzip, is_gzip: true, varies: true }
    }

    /// Compresses on a blocking thread if that takes long. The turn lasts as long as the work, also
    /// if the client is gone meanwhile.
    async fn compressed(&self, body: &Bytes, turn: Option<OwnedSemaphorePermit>) -> Bytes {
        let (idle, body) = (self.idle.clone(), body.clone());
        let is_long = body.len() > ON_THE_SPOT_BYTES_MAX;
        let work = move || {
            let compressor = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut compressor =
                compressor.unwrap_or_else(|| Compress::new(Compression::fast(), false));
            let gzip = gzip(&mut compressor, &body);
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(compressor);
            drop(turn);
            gzip
        };
        tasks::beside_if(is_long, work).await
    }
}

/// One gzip member.
fn gzip(compressor: &mut Compress, body: &[u8]) -> Bytes {
    compressor.reset();
    let mut gzip = Vec::with_capacity(HEADER.len() + body.len() / 4 + 64);
    gzip.extend_from_slice(&HEADER);
    loop {
        let taken = usize::try_from(compressor.total_in()).unwrap_or(usize::MAX);
        let rest = body.get(taken..).unwrap_or_default();
        match compressor.compress_vec(rest, &mut gzip, FlushCompress::Finish) {
            Ok(Status::StreamEnd) => break,
            // More room is needed.
            Ok(Status::Ok | Status::BufError) | Err(_) => gzip.reserve(gzip.capacity().max(64)),
        }
    }
    let mut crc = Crc::new();
    crc.update(body);
    gzip.extend_from_slice(&crc.sum().to_le_bytes());
    // The length modulo 2^32, as the format has it.
    gzip.extend_from_slice(&crc.amount().to_le_bytes());
    gzip.into()
}

/// True if a client accepts gzip, by `Accept-Encoding`.
fn accepts_gzip(request: &HeaderMap) -> bool {
    let mut any = None;
    for value in request.get_all(ACCEPT_ENCODING) {
        for offer in value.to_str().unwrap_or_default().split(',') {
            let mut parts = offer.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default().to_ascii_lowercase();
            let is_refused = parts.any(|part| {
                let weight = part.strip_prefix("q=").or_else(|| part.strip_prefix("Q="));
                weight.is_some_and(|weight| weight.parse::<f32>().is_ok_and(|q| q <= 0.0))
            });
            match name.as_str() {
                "gzip" | "x-gzip" => return !is_refused,
                "*" => any = Some(!is_refused),
                _ => {}
            }
        }
    }
    any.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn accepting(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(value))])
    }

    fn unpacked(gzip: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        flate2::read::GzDecoder::new(gzip).read_to_end(&mut body).unwrap();
        body
    }

    #[test]
    fn gzip_is_sent_to_those_who_accept_it() {
        let check = |value, expected| {
            assert_eq!(accepts_gzip(&accepting(value)), expected, "{value}");
        };
        for value in ["gzip", "deflate, GZIP;q=0.5", "*", "br;q=1.0, *;q=0.1", "x-gzip"] {
            check(value, true);
        }
        for value in ["", "br", "gzip;q=0", "gzip; q=0.000, *", "*;q=0", "identity"] {
            check(value, false);
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }

    #[tokio::test(start_paused = true)]
    async fn who_would_wait_long_for_a_compressor_gets_the_body_as_it_is() {
        let compressors = Compressors::new(1);
        let _busy = compressors.turns.clone().acquire_owned().await;
        let body = Bytes::from(vec![b'x'; COMPRESSED_BYTES_MIN]);
        let begun = tokio::time::Instant::now();
        let encoded = compressors.encode(&accepting("gzip"), body.clone(), None).await;
        assert_eq!(begun.elapsed(), WAIT_MAX);
        assert!(encoded.body == body && !encoded.is_gzip && encoded.varies);
    }

    #[tokio::test]
    async fn bodies_of_any_size_come_back_whole() {
        let compressors = Compressors::new(1);
        for bytes in [1_024, 70_000, 5_000_000] {
            // Repetitive and not.
            let mut state = 1_u32;
            let noise = move |at: usize| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if at.is_multiple_of(3) { state.to_be_bytes()[0] } else { b'a' }
            };
            let body: Bytes = (0..bytes).map(noise).collect::<Vec<u8>>().into();
            let encoded = compressors.encode(&accepting("gzip"), body.clone(), None).await;
            assert!(encoded.is_gzip && encoded.body.len() < body.len(), "{bytes}");
            assert_eq!(unpacked(&encoded.body), body);
            let plain = compressors.encode(&accepting("br"), body.clone(), None).await;
            assert!(!plain.is_gzip && plain.varies && plain.body == body);
        }
        assert_eq!(compressors.idle.lock().unwrap().len(), 1, "one served all");
        let small = Bytes::from(vec![b'a'; COMPRESSED_BYTES_MIN - 1]);
        let encoded = compressors.encode(&accepting("gzip"), small, None).await;
        assert!(!encoded.is_gzip && !encoded.varies);
    }

    #[tokio::test]
    async fn what_many_get_is_compressed_once() {
        let compressors = Compressors::new(2);
        let shared = OnceLock::new();
        let body = Bytes::from(vec![b'a'; 200_000]);
        let request = accepting("gzip");
        let mut bodies = Vec::new();
        for _ in 0..3 {
            bodies.push(compressors.encode(&request, body.clone(), Some(&shared)).await.body);
        }
        assert!(bodies.iter().all(|one| one.as_ptr() == bodies[0].as_ptr()));
    }
}
