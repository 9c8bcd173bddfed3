//! The ACL token: none, fixed, or from a file that may change.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http::{HeaderName, HeaderValue};
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::model::Password;
use crate::storage::StoreError;

/// The header that carries the token.
pub(super) const TOKEN_HEADER: HeaderName = HeaderName::from_static("x-consul-token");

/// Shortest interval between checks of the file: a renewed token is used within a second, and a
/// busy relay does not access the file system for each request.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The source of the ACL token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TokenSource {
    /// No token; the agent's default applies.
    #[default]
    None,
    /// This text.
    Fixed(Password),
    /// The content of this file without surrounding white space, read again when it changes. While
    /// the file cannot be used, the last token stays in use.
    File {
        /// The file.
        path: PathBuf,
        /// The token that was read before, if any.
        last: Option<Password>,
    },
}

#[derive(Debug, thiserror::Error)]
enum TokenError {
    #[error("token file {path} cannot be read")]
    Unreadable {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error("token file {path} is empty")]
    Empty { path: PathBuf },
    #[error("the token has characters that no header can carry")]
    NotAHeader,
}

/// A token source with the token last read from it.
#[derive(Debug)]
pub(super) struct Token {
    source: TokenSource,
    read: Mutex<Option<FileToken>>,
}

#[derive(Clone, Debug)]
struct FileToken {
    looked: Instant,
    stamp: Stamp,
    token: Password,
    /// The reason why the file currently cannot be used.
    problem: Option<String>,
}

impl Token {
    pub(super) fn new(source: TokenSource) -> Self {
        Self { source, read: Mutex::new(None) }
    }

    /// The value of the header, marked as sensitive.
    pub(super) async fn header(&self) -> Result<Option<HeaderValue>, StoreError> {
        let token = match &self.source {
            TokenSource::None => return Ok(None),
            TokenSource::Fixed(token) => token.clone(),
            TokenSource::File { path, last } => {
                self.token_of_file(path, last.as_ref()).await.map_err(refused)?
            }
        };
        let mut value =
            HeaderValue::from_str(token.expose()).map_err(|_| refused(TokenError::NotAHeader))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    /// The token in the file, or the last one while the file cannot be used.
    async fn token_of_file(
        &self,
        path: &PathBuf,
        last: Option<&Password>,
    ) -> Result<Password, TokenError> {
        let known = self.read.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let now = Instant::now();
        if let Some(known) = known.as_ref().filter(|known| now < known.looked + LOOK_INTERVAL) {
            return Ok(known.token.clone());
        }
        let before = known.as_ref().map(|known| &known.token).or(last).cloned();
        let read = match read_file(path, known.as_ref()).await {
            Ok((stamp, token)) => FileToken { looked: now, stamp, token, problem: None },
            Err(error) => {
                let Some(token) = before else { return Err(error) };
                let problem = error.to_string();
                if known.as_ref().and_then(|known| known.problem.as_ref()) != Some(&problem) {
                    tracing::warn!(
                        problem,
                        "the token file of Consul cannot be used; the token that was read before \
                         stays in use"
                    );
                }
                // No stamp: the file is read again as soon as it can be used.
                FileToken { looked: now, stamp: (None, 0), token, problem: Some(problem) }
            }
        };
        let token = read.token.clone();
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = Some(read);
        Ok(token)
    }
}

/// Modification time and length of a file; if either differs, the file is read again.
type Stamp = (Option<SystemTime>, u64);

async fn read_file(
    path: &PathBuf,
    known: Option<&FileToken>,
) -> Result<(Stamp, Password), TokenError> {
    let unreadable = |cause| TokenError::Unreadable { path: path.clone(), cause };
    let metadata = tokio::fs::metadata(path).await.map_err(unreadable)?;
    let stamp = (metadata.modified().ok(), metadata.len());
    if let Some(known) = known.filter(|known| known.problem.is_none() && known.stamp == stamp) {
        return Ok((stamp, known.token.clone()));
    }
    let text = Zeroizing::new(tokio::fs::read_to_string(path).await.map_err(unreadable)?);
    let text = text.trim();
    if text.is_empty() {
        return Err(TokenError::Empty { path: path.clone() });
    }
    if HeaderValue::from_str(text).is_err() {
        return Err(TokenError::NotAHeader);
    }
    Ok((stamp, Password::new(text)))
}

fn refused(error: TokenError) -> StoreError {
    StoreError::Refused(Box::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn shown(token: &Token) -> String {
        match token.header().await {
            Ok(None) => "none".to_owned(),
            Ok(Some(value)) => {
                assert!(value.is_sensitive());
                value.to_str().unwrap().to_owned()
            }
            Err(StoreError::Refused(cause)) => cause.to_string(),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_is_read_again_when_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let token = Token::new(TokenSource::File { path: path.clone(), last: None });
        assert!(shown(&token).await.contains("cannot be read"));
        std::fs::write(&path, "\n").unwrap();
        assert!(shown(&token).await.ends_with("is empty"));
        std::fs::write(&path, "first\n").unwrap();
        assert_eq!(shown(&token).await, "first");
        std::fs::write(&path, "the second\n").unwrap();
        assert_eq!(shown(&token).await, "first", "not looked at again so soon");
        tokio::time::advance(LOOK_INTERVAL).await;
        assert_eq!(shown(&token).await, "the second");
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_cannot_be_used_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let first = Some(Password::new("first"));
        let token = Token::new(TokenSource::File { path: path.clone(), last: first });
        assert_eq!(shown(&token).await, "first", "absent");
        for content in [&b"second"[..], b" \n", b"\xff", b"a\nb"] {
            std::fs::write(&path, content).unwrap();
            tokio::time::advance(LOOK_INTERVAL).await;
            assert_eq!(shown(&token).await, "second", "{content:?}");
        }
        std::fs::remove_file(&path).unwrap();
        tokio::time::advance(LOOK_INTERVAL).await;
        assert_eq!(shown(&token).await, "second", "removed");
        std::fs::write(&path, "third").unwrap();
        tokio::time::advance(LOOK_INTERVAL).await;
        assert_eq!(shown(&token).await, "third");
    }

    #[tokio::test]
    async fn fixed_tokens_and_none() {
        assert_eq!(shown(&Token::new(TokenSource::None)).await, "none");
        let fixed = |text: &str| Token::new(TokenSource::Fixed(Password::new(text)));
        assert_eq!(shown(&fixed("abc")).await, "abc");
        let error = shown(&fixed("a\nb")).await;
        assert_eq!(error, "the token has characters that no header can carry");
    }
}
