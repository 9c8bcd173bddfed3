//! Types of credentials. They redact themselves, compare in constant time and reveal their text
//! only through [`SdkKey::expose`] and its counterparts, so that a search finds every use.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Shared text of a secret, wiped when the last owner is dropped.
#[derive(Clone)]
struct Secret(Arc<Zeroizing<String>>);

impl Secret {
    fn new(text: impl Into<String>) -> Self {
        Self(Arc::new(Zeroizing::new(text.into())))
    }

    fn expose(&self) -> &str {
        self.0.as_str()
    }

    /// The last four characters of a long secret, no character of a short one.
    fn tail(&self) -> String {
        let text = self.expose();
        // Counted in characters: slicing bytes could split one and panic.
        let count = text.chars().count();
        if count > 8 { text.chars().skip(count - 4).collect() } else { String::new() }
    }
}

impl Secret {
    /// The part shown of a secret that a person may have chosen: nothing.
    fn nothing(&self) -> &'static str {
        ""
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose().as_bytes().ct_eq(other.expose().as_bytes()).into()
    }
}

impl Eq for Secret {}

impl Hash for Secret {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.expose().hash(state);
    }
}

macro_rules! secret {
    ($(#[$doc:meta])* $name:ident, $shown:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash)]
        pub struct $name(Secret);

        impl $name {
            /// Wraps the raw text.
            pub fn new(text: impl Into<String>) -> Self {
                Self(Secret::new(text))
            }

            /// The raw text, only for request headers, key derivation and sealed records.
            pub fn expose(&self) -> &str {
                self.0.expose()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "(…{})"), $shown(&self.0))
            }
        }
    };
}

secret! {
    /// Key of a server-side SDK for one environment (`sdk-…`).
    SdkKey, Secret::tail
}
secret! {
    /// Key of a mobile SDK for one environment (`mob-…`).
    MobileKey, Secret::tail
}
secret! {
    /// Key that opens the autoconfig stream (`rel-…`).
    AutoConfigKey, Secret::tail
}
secret! {
    /// Any other secret from the configuration: passwords, tokens, encryption keys. Its `Debug`
    /// shows no part of it: people choose passwords, and a few characters help to guess the rest.
    Password, Secret::nothing
}

/// Client-side ID of an environment. Public by design: web pages contain it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EnvironmentId(Arc<str>);

impl EnvironmentId {
    /// Wraps the ID's text.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The ID's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Key of a payload filter; empty means the unfiltered environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FilterKey(Arc<str>);

impl FilterKey {
    /// Wraps the key's text; empty text is the unfiltered environment.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The key's text, empty for the unfiltered environment.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True for the unfiltered environment.
    pub fn is_unfiltered(&self) -> bool {
        self.0.is_empty()
    }
}

/// A credential that a client sends. The kind is part of the identity: a mobile key on a server
/// route is unknown (ld-relay v8: typed look-up).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Credential {
    /// Server-side SDK key.
    Sdk(SdkKey),
    /// Mobile key.
    Mobile(MobileKey),
    /// Client-side ID in a path.
    EnvironmentId(EnvironmentId),
}

/// The form in which `/status` shows a key. A UUID, with or without a prefix `xxx-`, is shown as in
/// ld-relay v8: every digit becomes `*` except the last five. Any other text, of which ld-relay
/// shows every letter after `f`, is hidden as well, except the last five characters of a long one.
pub fn obscured(key: &str) -> String {
    let bytes = key.as_bytes();
    let has_prefix =
        bytes.len() > 4 && bytes[..3].iter().all(u8::is_ascii_lowercase) && bytes[3] == b'-';
    let (head, rest) = if has_prefix { key.split_at(4) } else { ("", key) };
    let count = rest.chars().count();
    let stay = if count >= LONG_KEY_CHARACTERS { 5 } else { 0 };
    let mut shown = String::with_capacity(key.len());
    shown.push_str(head);
    for (index, c) in rest.chars().enumerate() {
        let stays = index + stay >= count || (c == '-' && is_uuid(rest));
        shown.push(if stays { c } else { '*' });
    }
    shown
}

/// Length from which a text has enough hidden characters if the last five are shown.
const LONG_KEY_CHARACTERS: usize = 16;

fn is_uuid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    let is_hex = |part: &&str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    lengths == [8, 4, 4, 4, 12] && parts.iter().all(is_hex)
}

/// A URL that may contain user-info; its `Debug` hides the password.
#[derive(Clone, PartialEq, Eq)]
pub struct RedactedUrl(Arc<Zeroizing<String>>);

impl RedactedUrl {
    /// Wraps the URL's text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Arc::new(Zeroizing::new(text.into())))
    }

    /// The URL with its password, only for dialling.
    pub fn expose(&self) -> &str {
        self.0.as_str()
    }

    /// The URL with the password written as `xxxxx` (ld-relay v8: `dbServer` in `/status`).
    pub fn redacted(&self) -> String {
        let text = self.expose();
        let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, tail) = rest.split_at(end);
        let tail = without_password(tail);
        match authority.rsplit_once('@') {
            Some((user_info, host)) => match user_info.split_once(':') {
                Some((user, _)) => format!("{scheme}://{user}:xxxxx@{host}{tail}"),
                None => format!("{scheme}://{authority}{tail}"),
            },
            None => format!("{scheme}://{authority}{tail}"),
        }
    }
}

/// A URL's path and query with the password of the query (`pass`, in URLs of Unix sockets) hidden.
fn without_password(tail: &str) -> String {
    let Some((path, query)) = tail.split_once('?') else { return tail.to_owned() };
    let hidden = query.split('&').map(|member| match member.split_once('=') {
        Some((name @ ("pass" | "password"), _)) => format!("{name}=xxxxx"),
        Some(_) | None => member.to_owned(),
    });
    format!("{path}?{}", hidden.collect::<Vec<_>>().join("&"))
}

impl fmt::Debug for RedactedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_only_the_tail() {
        assert_eq!(format!("{:?}", SdkKey::new("sdk-1234567890abcd")), "SdkKey(…abcd)");
        assert_eq!(format!("{:?}", SdkKey::new("short")), "SdkKey(…)");
        assert_eq!(format!("{:?}", MobileKey::new("mob-ключключ")), "MobileKey(…ключ)");
        assert_eq!(format!("{:?}", Password::new("a long password")), "Password(…)");
    }

    #[test]
    fn obscured_is_ld_relays_form_for_uuids_and_hides_the_rest() {
        let check = |key: &str, expected: &str| assert_eq!(obscured(key), expected, "{key}");
        check(
            "sdk-01234567-89ab-cdef-0123-456789abcdef",
            "sdk-********-****-****-****-*******bcdef",
        );
        check("01234567-89ab-cdef-0123-456789abcdef", "********-****-****-****-*******bcdef");
        check("abcd", "****");
        check("sdk-abcd", "sdk-****");
        check("sdk-abcdef", "sdk-******");
        check("", "");
        check("ключи-ключи", "***********");
        check("sdk-my-production-secret", "sdk-***************ecret");
        check("sdk-this-is-secret", "sdk-**************");
        check("my shop production", "*************ction");
    }

    #[test]
    fn urls_hide_passwords() {
        let check = |url: &str, shown: &str| assert_eq!(RedactedUrl::new(url).redacted(), shown);
        check("redis://u:p@h:1/2", "redis://u:xxxxx@h:1/2");
        check("redis://:p@h", "redis://:xxxxx@h");
        check("redis://:p@ss@h", "redis://:xxxxx@h");
        check("redis://h:6379", "redis://h:6379");
        check("redis://u@h/1", "redis://u@h/1");
        check("unix:///r.sock?db=3&pass=p&user=u", "unix:///r.sock?db=3&pass=xxxxx&user=u");
        check("not a url", "not a url");
    }

    #[test]
    fn kinds_do_not_mix() {
        assert_ne!(
            Credential::Sdk(SdkKey::new("same-text-here")),
            Credential::Mobile(MobileKey::new("same-text-here"))
        );
    }
}
