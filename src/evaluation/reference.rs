//! Attribute references: which value of a context a clause or a rollout looks at.

/// A way to a value of a context.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Reference {
    /// None is given.
    #[default]
    Undefined,
    /// One is given that cannot name anything.
    Invalid,
    /// The kinds of the context itself. The name `kind` never means an attribute of one of them.
    Kind,
    /// The name of an attribute, and below it the names of members.
    Path(Box<[Box<str>]>),
}

impl Reference {
    /// The attribute with this name, which is never a path (clauses without a context kind).
    pub fn literal(name: &str) -> Self {
        match name {
            "" => Self::Undefined,
            "kind" => Self::Kind,
            _ => Self::Path(Box::new([name.into()])),
        }
    }

    /// A name, or a path that begins with a slash: `/address/street`. In a path, `~1` stands for a
    /// slash and `~0` for a tilde.
    pub fn parse(text: &str) -> Self {
        let Some(path) = text.strip_prefix('/') else {
            return Self::literal(text);
        };
        let names: Option<Box<[Box<str>]>> = path.split('/').map(unescaped).collect();
        names.map_or(Self::Invalid, Self::Path)
    }
}

/// A part of a path; `None` if it is empty or holds an escape that does not exist.
fn unescaped(part: &str) -> Option<Box<str>> {
    if part.is_empty() {
        return None;
    }
    let mut name = String::with_capacity(part.len());
    let mut rest = part.chars();
    while let Some(letter) = rest.next() {
        name.push(match letter {
            '~' => match rest.next()? {
                '0' => '~',
                '1' => '/',
                _ => return None,
            },
            other => other,
        });
    }
    Some(name.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(names: &[&str]) -> Reference {
        Reference::Path(names.iter().map(|name| Box::from(*name)).collect())
    }

    #[test]
    fn references() {
        for (text, expected) in [
            ("", Reference::Undefined),
            ("kind", Reference::Kind),
            ("name", path(&["name"])),
            ("a~b", path(&["a~b"])),
            ("a/b", path(&["a/b"])),
            ("/name", path(&["name"])),
            ("/kind", path(&["kind"])),
            ("/a/b", path(&["a", "b"])),
            ("/a~1b/c~0~1", path(&["a/b", "c~/"])),
            ("/", Reference::Invalid),
            ("//", Reference::Invalid),
            ("/a/", Reference::Invalid),
            ("/a//b", Reference::Invalid),
            ("/a~", Reference::Invalid),
            ("/a~2", Reference::Invalid),
            ("/a/b~", Reference::Invalid),
        ] {
            assert_eq!(Reference::parse(text), expected, "{text}");
        }
        assert_eq!(Reference::literal("/a~1/b"), path(&["/a~1/b"]));
        assert_eq!(Reference::literal(""), Reference::Undefined);
    }
}
