//! Secrets: given as a value, or in a file of their own that can be read again when it changes.
//!
//! The text of a secret is in no problem and no warning, not even a part of it.

use std::path::PathBuf;

use crate::model::{AutoConfigKey, MobileKey, Password, SdkKey};

use super::reader::{Names, SectionReader};
use super::values::Invalid;

/// Most bytes of a secret's file. The longest secrets are tokens of a few kilobytes.
const SECRET_BYTES_MAX: usize = 64 * 1024;

/// A secret and the file it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretSource<T> {
    /// The secret as it was when the configuration was read.
    pub value: T,
    /// The file to read it from again; `None` if it was given as a value.
    pub file: Option<PathBuf>,
}

/// Where secrets of one kind are understood: the same function serves the value and the content
/// of the file, now and when the file is read again.
pub trait SecretKind: Sized {
    /// Makes the secret of a text; the error says what is wrong without any part of the text.
    fn from_text(text: &str) -> Result<Self, InvalidSecret>;
}

/// Why a text cannot be the secret it is meant to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSecret {
    /// There is nothing in it.
    #[error("is empty")]
    Empty,
    /// It cannot stand in an HTTP header.
    #[error(
        "holds a character that cannot be in a key: a blank at an end, a line break, or a letter \
         outside of ASCII"
    )]
    NotHeaderSafe,
    /// It is not text.
    #[error("is not UTF-8 text")]
    NotText,
    /// It is too long to be a secret.
    #[error("is larger than {SECRET_BYTES_MAX} bytes")]
    TooLarge,
}

impl<T: SecretKind> SecretSource<T> {
    /// Makes the secret of the content of its file; blanks and line breaks around it do not count.
    pub fn from_file_content(content: &[u8]) -> Result<T, InvalidSecret> {
        if content.len() > SECRET_BYTES_MAX {
            return Err(InvalidSecret::TooLarge);
        }
        let text = std::str::from_utf8(content).map_err(|_| InvalidSecret::NotText)?;
        T::from_text(text.trim())
    }
}

/// Keys are sent in headers and compared with what is received in headers.
fn header_safe(text: &str) -> Result<&str, InvalidSecret> {
    if text.is_empty() {
        return Err(InvalidSecret::Empty);
    }
    let visible = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if visible && text.trim() == text { Ok(text) } else { Err(InvalidSecret::NotHeaderSafe) }
}

impl SecretKind for SdkKey {
    fn from_text(text: &str) -> Result<Self, InvalidSecret> {
        header_safe(text).map(Self::new)
    }
}

impl SecretKind for MobileKey {
    fn from_text(text: &str) -> Result<Self, InvalidSecret> {
        header_safe(text).map(Self::new)
    }
}

impl SecretKind for AutoConfigKey {
    fn from_text(text: &str) -> Result<Self, InvalidSecret> {
        header_safe(text).map(Self::new)
    }
}

impl SecretKind for Password {
    fn from_text(text: &str) -> Result<Self, InvalidSecret> {
        if text.is_empty() { Err(InvalidSecret::Empty) } else { Ok(Self::new(text)) }
    }
}

impl SecretKind for Vec<Password> {
    /// Separated by commas or line breaks; blanks around them do not count.
    fn from_text(text: &str) -> Result<Self, InvalidSecret> {
        let parts = text.split([',', '\n']).map(str::trim).filter(|part| !part.is_empty());
        let passwords: Self = parts.map(Password::new).collect();
        if passwords.is_empty() { Err(InvalidSecret::Empty) } else { Ok(passwords) }
    }
}

impl SectionReader<'_, '_> {
    /// A secret by its value or by its file.
    pub(super) fn secret<T: SecretKind>(
        &mut self,
        value: Names,
        file: Names,
    ) -> Option<SecretSource<T>> {
        let given = self.parsed(value, |text| T::from_text(text).map_err(invalid));
        self.or_from_file(value, given, file)
    }

    /// A list of secrets by its values or by its file.
    pub(super) fn secret_list(
        &mut self,
        values: Names,
        file: Names,
    ) -> Option<SecretSource<Vec<Password>>> {
        // Items never pass through a message, so nothing is said of blanks around them.
        let given = Vec::from_text(&self.list(values).join(",")).ok();
        self.or_from_file(values, given, file)
    }

    fn or_from_file<T: SecretKind>(
        &mut self,
        value: Names,
        given: Option<T>,
        file: Names,
    ) -> Option<SecretSource<T>> {
        let path = self.path(file);
        if self.is_set(value) && self.is_set(file) {
            let what = format!("is set together with {}; only one is possible", self.title(value));
            self.problem(file, what, None);
            return None;
        }
        let Some(path) = path else {
            return given.map(|value| SecretSource { value, file: None });
        };
        let read = match self.files().read(&path) {
            Ok(content) => {
                SecretSource::<T>::from_file_content(&content).map_err(|error| error.to_string())
            }
            Err(error) => Err(format!("cannot be read: {error}")),
        };
        match read {
            Ok(value) => Some(SecretSource { value, file: Some(path) }),
            Err(why) => {
                self.problem(file, format!("the file {} {why}", path.display()), None);
                None
            }
        }
    }
}

fn invalid(error: InvalidSecret) -> Invalid {
    Invalid { what: error.to_string(), allowed: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_must_be_fit_for_a_header() {
        let check = |text: &str, expected: Result<(), InvalidSecret>| {
            assert_eq!(SdkKey::from_text(text).map(|_| ()), expected, "{text:?}");
            assert_eq!(MobileKey::from_text(text).map(|_| ()), expected, "{text:?}");
            assert_eq!(AutoConfigKey::from_text(text).map(|_| ()), expected, "{text:?}");
        };
        check("sdk-1", Ok(()));
        check("any old text", Ok(()));
        check("", Err(InvalidSecret::Empty));
        check("sdk-1\n", Err(InvalidSecret::NotHeaderSafe));
        check(" sdk-1", Err(InvalidSecret::NotHeaderSafe));
        check("sdk-ключ", Err(InvalidSecret::NotHeaderSafe));
    }

    #[test]
    fn the_content_of_a_file_is_trimmed_and_checked() {
        let check = |content: &[u8], expected: Result<&str, InvalidSecret>| {
            let password = SecretSource::<Password>::from_file_content(content);
            assert_eq!(password, expected.map(Password::new));
        };
        check(b" pass word\r\n", Ok("pass word"));
        check(b" \n", Err(InvalidSecret::Empty));
        check(b"\xff", Err(InvalidSecret::NotText));
        check(&vec![b'x'; SECRET_BYTES_MAX + 1], Err(InvalidSecret::TooLarge));
        let key = SecretSource::<SdkKey>::from_file_content(b"sdk-1\n");
        assert_eq!(key, Ok(SdkKey::new("sdk-1")));
        let keys = SecretSource::<Vec<Password>>::from_file_content(b"a, b\nc\n\n");
        assert_eq!(keys, Ok(["a", "b", "c"].map(Password::new).to_vec()));
        let none = SecretSource::<Vec<Password>>::from_file_content(b" ,\n");
        assert_eq!(none, Err(InvalidSecret::Empty));
    }
}
