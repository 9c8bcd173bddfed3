//! Secrets, given as a value or in a file, which can be read again when it changes.
//!
//! No problem and no warning holds any part of a secret.

use std::path::PathBuf;

use crate::model::{AutoConfigKey, MobileKey, Password, SdkKey};

use super::reader::Scope;
use super::table::Opt;

/// Largest size of a secret's file. The longest secrets are tokens of a few kilobytes.
const SECRET_BYTES_MAX: usize = 64 * 1024;

/// A secret and the file it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretSource<T> {
    /// The secret when the configuration was read.
    pub value: T,
    /// The file to read it from again; `None` if it was given as a value.
    pub file: Option<PathBuf>,
}

/// A kind of secret. The same function parses the value and the content of the file, at the start
/// and when the file is read again.
pub trait SecretKind: Sized {
    /// Makes the secret from a text; the error contains no part of the text.
    fn from_text(text: &str) -> Result<Self, InvalidSecret>;
}

/// The reason why a text cannot be the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSecret {
    /// It is empty.
    #[error("is empty")]
    Empty,
    /// It is not allowed in an HTTP header.
    #[error(
        "contains a character that is not allowed here: a space at the beginning or \
         end, a line break or another control character, or a character outside ASCII"
    )]
    NotHeaderSafe,
    /// It is not text.
    #[error("is not UTF-8 text")]
    NotText,
    /// It is too long to be a secret.
    #[error("is larger than {SECRET_BYTES_MAX} bytes")]
    TooLarge,
}

/// Least number of characters in a key that cannot be guessed.
const KEY_CHARACTERS_MIN: usize = 16;
/// Least number of different characters in such a key.
const KEY_VARIETY_MIN: usize = 8;

/// The reason why a key that seals data at rest is easy to guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeakKey {
    /// It is short, or a short text repeated.
    #[error(
        "is shorter than {KEY_CHARACTERS_MIN} characters, or repeats a shorter text; an \
         attacker who reads the disk or the database could guess it. Create a key with `pilotlight \
         generate-key`"
    )]
    Short,
    /// It has few different characters.
    #[error(
        "has fewer than {KEY_VARIETY_MIN} different characters; an attacker who reads the \
         disk or the database could guess it. Create a key with `pilotlight generate-key`"
    )]
    Uniform,
}

impl WeakKey {
    /// Checks the text of an encryption key. The check is rough: it finds placeholders and words,
    /// and `None` does not mean that the key is strong.
    pub fn find(text: &str) -> Option<Self> {
        let characters: Vec<char> = text.chars().collect();
        let repeats = |length: &usize| {
            let (first, rest) = characters.split_at(*length);
            rest.iter().zip(first.iter().cycle()).all(|(a, b)| a == b)
        };
        let lengths = 1..=(characters.len() / 2).min(KEY_CHARACTERS_MIN);
        let length = lengths.into_iter().find(repeats).unwrap_or(characters.len());
        let different: std::collections::BTreeSet<&char> = characters.iter().collect();
        if length < KEY_CHARACTERS_MIN {
            Some(Self::Short)
        } else if different.len() < KEY_VARIETY_MIN {
            Some(Self::Uniform)
        } else {
            None
        }
    }
}

impl SecretSource<HeaderToken> {
    /// The token as a password.
    pub(super) fn into_password(self) -> SecretSource<Password> {
        SecretSource { value: self.value.0, file: self.file }
    }
}

impl<T: SecretKind> SecretSource<T> {
    fn given(value: T) -> Self {
        Self { value, file: None }
    }

    /// Makes the secret from the content of its file; blanks and line breaks around it are removed.
    pub fn from_file_content(content: &[u8]) -> Result<T, InvalidSecret> {
        if content.len() > SECRET_BYTES_MAX {
            return Err(InvalidSecret::TooLarge);
        }
        let text = std::str::from_utf8(content).map_err(|_| InvalidSecret::NotText)?;
        T::from_text(text.trim())
    }
}

/// Checks that a key can be sent in a header and compared with one received in a header.
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

/// A secret that is sent to a database in an HTTP header. Unlike a key, it may have blanks around
/// it, which HTTP leaves out.
pub struct HeaderToken(Password);

impl SecretKind for HeaderToken {
    fn from_text(text: &str) -> Result<Self, InvalidSecret> {
        header_safe(text.trim_matches([' ', '\t'])).map(|text| Self(Password::new(text)))
    }
}

impl SecretKind for Vec<Password> {
    /// Parses secrets separated by commas or line breaks, without the blanks around them.
    fn from_text(text: &str) -> Result<Self, InvalidSecret> {
        let parts = text.split([',', '\n']).map(str::trim).filter(|part| !part.is_empty());
        let passwords: Self = parts.map(Password::new).collect();
        if passwords.is_empty() { Err(InvalidSecret::Empty) } else { Ok(passwords) }
    }
}

impl Scope<'_, '_> {
    /// Reads a secret from its value or from its file.
    pub(super) fn secret<T: SecretKind>(&mut self, option: &Opt<T>) -> Option<SecretSource<T>> {
        let given = self.read(option);
        let Some(file) = option.file else { return given.map(SecretSource::given) };
        let path = self.read(file);
        // The secret's own line names the file.
        self.show(file, None);
        if self.is_set(option) && self.is_set(file) {
            let what = format!("is set together with {}; set only one of them", self.title(option));
            self.problem(file, what, None);
            return None;
        }
        let Some(path) = path else { return given.map(SecretSource::given) };
        let read = match self.reader.files().read(&path) {
            Ok(content) => {
                SecretSource::<T>::from_file_content(&content).map_err(|error| error.to_string())
            }
            Err(error) => Err(format!("cannot be read: {error}")),
        };
        match read {
            Ok(value) => {
                let shown = (option.kind.show)(&value).unwrap_or_default();
                self.show(option, Some(format!("{shown}, from the file {}", path.display())));
                Some(SecretSource { value, file: Some(path) })
            }
            Err(why) => {
                self.problem(file, format!("the file {} {why}", path.display()), None);
                None
            }
        }
    }
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
        check("sdk\u{1}", Err(InvalidSecret::NotHeaderSafe));
        check("sdk\u{7f}", Err(InvalidSecret::NotHeaderSafe));
    }

    #[test]
    fn tokens_must_be_fit_for_a_header_and_may_stand_among_blanks() {
        let check = |text: &str, expected: Result<&str, InvalidSecret>| {
            let token = HeaderToken::from_text(text).map(|token| token.0);
            assert_eq!(token, expected.map(Password::new), "{text:?}");
        };
        check("a token", Ok("a token"));
        check(" token\t", Ok("token"));
        check(" ", Err(InvalidSecret::Empty));
        for text in ["a\nb", "a\n", "a\u{1}b", "a\tb", "a\u{7f}", "ключ"] {
            check(text, Err(InvalidSecret::NotHeaderSafe));
        }
    }

    #[test]
    fn keys_that_are_easy_to_guess_are_found() {
        let check = |text: &str, expected| assert_eq!(WeakKey::find(text), expected, "{text}");
        for text in
            ["", "a", "abc", "correct horse", "aaaaaaaaaaaaaaaaaaaaaaaa", "ключключключключ"]
        {
            check(text, Some(WeakKey::Short));
        }
        check("passwordpasswordpassword", Some(WeakKey::Short));
        check("0101101011011010", Some(WeakKey::Uniform));
        check("correct horse battery", None);
        check("7c9e6679-7425-40de-944b-e07fc1f90ae7", None);
        check("q1w2e3r4t5y6u7i8", None);
        check("1qw2e3r4t5y6u7i1", None);
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
