//! Server-Sent Events.
/// stub until the codec lands
pub fn encode(name: &str, data: &[u8]) -> bytes::Bytes {
    let text = String::from_utf8_lossy(data)
        .replace("\r\n", "\n")
        .replace('\r', "\n")
        .replace('\n', "\ndata: ");
    format!("event: {name}\ndata: {text}\n\n").into()
}
