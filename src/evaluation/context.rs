//! Contexts: for whom flags are evaluated.

use serde_json::{Map, Number, Value};

use super::reference::Reference;

/// The kind of a context that is given without one.
pub(super) const USER: &str = "user";

/// For whom flags are evaluated: one individual, or several of different kinds.
#[derive(Clone, Debug, PartialEq)]
pub struct Context {
    /// Sorted by kind, each kind once.
    individuals: Box<[Individual]>,
}

/// One person, device or whatever else a kind stands for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Individual {
    /// The kind.
    pub kind: Box<str>,
    /// Identifies it among those of its kind.
    pub key: Box<str>,
    /// The name, which is an attribute of its own type.
    pub name: Option<Box<str>>,
    /// True if it is not to be listed in LaunchDarkly.
    pub is_anonymous: bool,
    /// Part of what decides rollouts, from SDKs that knew only users.
    pub secondary: Option<Box<str>>,
    /// All other attributes.
    pub attributes: Map<String, Value>,
}

/// A value of a context. Null is no value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Attribute<'a> {
    Flag(bool),
    Number(&'a Number),
    Text(&'a str),
    List(&'a [Value]),
    Object(&'a Map<String, Value>),
}

impl Context {
    /// The context of these individuals; `None` if there is none or a kind occurs twice.
    pub fn new(mut individuals: Vec<Individual>) -> Option<Self> {
        individuals.sort_by(|left, right| left.kind.cmp(&right.kind));
        let is_twice = individuals.windows(2).any(|pair| pair[0].kind == pair[1].kind);
        let is_valid = !individuals.is_empty() && !is_twice;
        is_valid.then(|| Self { individuals: individuals.into() })
    }

    /// All of them, sorted by kind.
    pub fn individuals(&self) -> &[Individual] {
        &self.individuals
    }

    /// The individual of a kind. An empty kind means users.
    pub(super) fn individual(&self, kind: &str) -> Option<&Individual> {
        let kind = if kind.is_empty() { USER } else { kind };
        self.individuals.iter().find(|individual| *individual.kind == *kind)
    }

    /// True if it is a single user, to whom lists of other kinds do not apply.
    pub(super) fn is_only_user(&self) -> bool {
        matches!(&*self.individuals, [individual] if &*individual.kind == USER)
    }

    /// True if it is a single individual without a key, as old SDKs could send.
    pub fn lacks_key(&self) -> bool {
        matches!(&*self.individuals, [individual] if individual.key.is_empty())
    }

    /// The text that identifies it among contexts of all kinds: the message of secure mode's hash.
    pub fn canonical_key(&self) -> String {
        if let [individual] = &*self.individuals
            && &*individual.kind == USER
        {
            return individual.key.clone().into();
        }
        let parts = self.individuals.iter().map(|individual| {
            let key = individual.key.replace('%', "%25").replace(':', "%3A");
            format!("{}:{key}", individual.kind)
        });
        parts.collect::<Vec<_>>().join(":")
    }
}

impl Individual {
    /// The value at the end of a way.
    pub(super) fn value(&self, reference: &Reference) -> Option<Attribute<'_>> {
        let names = match reference {
            Reference::Undefined | Reference::Invalid => return None,
            Reference::Kind => return Some(Attribute::Text(&self.kind)),
            Reference::Path(names) => names,
        };
        let (first, below) = names.split_first()?;
        let top = match &**first {
            "kind" => Attribute::Text(&self.kind),
            "key" => Attribute::Text(&self.key),
            "name" => Attribute::Text(self.name.as_deref()?),
            "anonymous" => Attribute::Flag(self.is_anonymous),
            name => Attribute::of(self.attributes.get(name)?)?,
        };
        below.iter().try_fold(top, |value, name| match value {
            Attribute::Object(members) => Attribute::of(members.get(&**name)?),
            Attribute::Flag(_) | Attribute::Number(_) | Attribute::Text(_) | Attribute::List(_) => {
                None
            }
        })
    }
}

impl<'a> Attribute<'a> {
    /// A JSON value; `None` for null.
    pub fn of(value: &'a Value) -> Option<Self> {
        match value {
            Value::Null => None,
            Value::Bool(flag) => Some(Self::Flag(*flag)),
            Value::Number(number) => Some(Self::Number(number)),
            Value::String(text) => Some(Self::Text(text)),
            Value::Array(values) => Some(Self::List(values)),
            Value::Object(members) => Some(Self::Object(members)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn individual(kind: &str, key: &str) -> Individual {
        Individual { kind: kind.into(), key: key.into(), ..Individual::default() }
    }

    #[test]
    fn canonical_keys() {
        let user = individual("user", "a:b%c");
        let org = individual("org", "a:b%c");
        let context = |individuals: &[&Individual]| {
            Context::new(individuals.iter().copied().cloned().collect()).unwrap()
        };
        assert_eq!(context(&[&user]).canonical_key(), "a:b%c");
        assert_eq!(context(&[&org]).canonical_key(), "org:a%3Ab%25c");
        assert_eq!(context(&[&user, &org]).canonical_key(), "org:a%3Ab%25c:user:a%3Ab%25c");
        assert_eq!(Context::new(vec![user.clone(), user]), None);
        assert_eq!(Context::new(Vec::new()), None);
    }

    #[test]
    fn values() {
        let Value::Object(attributes) = json!({
            "a": {"b": {"c": 1}, "list": [1]}, "null": null, "text": "t", "/slash": "s",
        }) else {
            unreachable!()
        };
        let one = Individual { attributes, ..individual("org", "k") };
        let number = Number::from(1);
        for (text, expected) in [
            ("kind", Some(Attribute::Text("org"))),
            ("/kind", Some(Attribute::Text("org"))),
            ("key", Some(Attribute::Text("k"))),
            ("name", None),
            ("anonymous", Some(Attribute::Flag(false))),
            ("text", Some(Attribute::Text("t"))),
            ("/a/b/c", Some(Attribute::Number(&number))),
            ("/a/x/c", None),
            ("/text/x", None),
            ("/a/list/0", None),
            ("/key/x", None),
            ("null", None),
            ("other", None),
            ("/", None),
            ("", None),
        ] {
            assert_eq!(one.value(&Reference::parse(text)), expected, "{text}");
        }
        assert_eq!(one.value(&Reference::literal("/slash")), Some(Attribute::Text("s")));
    }
}
