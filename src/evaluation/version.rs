//! Semantic versions in clauses and contexts. Minor and patch number may be missing: `2`, `2.1-rc.1`.

use std::borrow::Cow;
use std::cmp::Ordering;

/// A semantic version, compared by precedence: what follows a `+` does not count.
#[derive(Clone, Debug)]
pub(super) struct Version(semver::Version);

impl Version {
    /// The version that the text is.
    pub fn parse(text: &str) -> Option<Self> {
        let end = text.find(['-', '+']).unwrap_or(text.len());
        let (numbers, rest) = text.split_at(end);
        let whole = match numbers.matches('.').count() {
            0 => Cow::from(format!("{numbers}.0.0{rest}")),
            1 => Cow::from(format!("{numbers}.0{rest}")),
            _ => Cow::from(text),
        };
        semver::Version::parse(&whole).ok().map(Self)
    }

    /// Its place beside another.
    pub fn compare(&self, other: &Self) -> Ordering {
        self.0.cmp_precedence(&other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_versions() {
        let sorted = [
            "0",
            "1.0-alpha",
            "1.0.0-alpha.1",
            "1-alpha.beta",
            "1.0.0-rc.2",
            "1.0.0-rc.11",
            "1",
            "1.0.1",
            "1.2",
            "2.0.0",
            "10",
        ];
        for (left, left_text) in sorted.iter().enumerate() {
            for (right, right_text) in sorted.iter().enumerate() {
                let order = Version::parse(left_text)
                    .unwrap()
                    .compare(&Version::parse(right_text).unwrap());
                assert_eq!(order, left.cmp(&right), "{left_text} {right_text}");
            }
        }
        for (left, right) in [("2", "2.0.0"), ("2.1", "2.1.0"), ("2.1.0+a", "2.1+b"), ("2+a", "2")]
        {
            let order = Version::parse(left).unwrap().compare(&Version::parse(right).unwrap());
            assert_eq!(order, Ordering::Equal, "{left} {right}");
        }
    }

    #[test]
    fn what_is_no_version() {
        for text in [
            "",
            "a",
            "1.a",
            "1.",
            "1.2.",
            "1.2.3.4",
            "01",
            "1.02",
            "-1",
            "1-",
            "1+",
            "1.0.0-a..b",
            "1.0.0-01",
            "v1",
            "1 ",
            "1.0.0-ä",
            "99999999999999999999",
        ] {
            assert!(Version::parse(text).is_none(), "{text}");
        }
    }
}
