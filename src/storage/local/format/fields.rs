//! Reads and writes the small binary fields before texts and bytes in records.
//!
//! Every reading function takes its part from the front of `rest`, or returns `None` and leaves it
//! to the caller to reject the record. No function panics, whatever the bytes are.

/// The next `count` bytes.
pub(crate) fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(count)?;
    *rest = tail;
    Some(head)
}

/// The next bytes as an array.
pub(crate) fn take_array<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*head)
}

/// The next byte.
pub(crate) fn take_u8(rest: &mut &[u8]) -> Option<u8> {
    take_array::<1>(rest).map(|[byte]| byte)
}

/// The next four bytes as a number.
pub(crate) fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    take_array(rest).map(u32::from_le_bytes)
}

/// The next eight bytes as a number.
pub(crate) fn take_u64(rest: &mut &[u8]) -> Option<u64> {
    take_array(rest).map(u64::from_le_bytes)
}

/// The next text, after its length.
pub(crate) fn take_text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let length = usize::try_from(take_u32(rest)?).ok()?;
    str::from_utf8(take(rest, length)?).ok()
}

/// Appends a text after its length. Texts here are keys and IDs, far below 4 GiB.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}
