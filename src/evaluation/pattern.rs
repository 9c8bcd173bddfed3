//! Regular expressions of `matches` clauses. They are written for Go's `regexp`, whose syntax differs
//! a little from that of the library that runs them here.

use std::iter::Peekable;
use std::str::Chars;

use regex::bytes::{Regex, RegexBuilder};

/// A pattern that is ready to be used.
#[derive(Debug)]
pub(super) struct Pattern(Regex);

impl Pattern {
    /// The pattern that the text is; `None` if it is not valid or takes too much memory.
    pub fn parse(text: &str) -> Option<Self> {
        // Most patterns are small; a large data set may have thousands.
        RegexBuilder::new(&translated(text)).dfa_size_limit(256 << 10).build().ok().map(Self)
    }

    /// True if the pattern is found anywhere in the text.
    pub fn is_in(&self, text: &str) -> bool {
        self.0.is_match(text.as_bytes())
    }
}

/// The same pattern for the library used here.
///
/// * `\d`, `\w`, `\s`, `\b` are about ASCII.
/// * `[` and `&&`, `--`, `~~` within brackets, `{` that begins no count, `\<` and `\>` mean themselves.
/// * `\Q...\E` quotes.
fn translated(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut rest = pattern.chars().peekable();
    while let Some(letter) = rest.next() {
        match letter {
            '\\' => escape(&mut out, &mut rest),
            '[' => class(&mut out, &mut rest),
            '{' if !begins_count(&rest) => out.push_str(r"\{"),
            other => out.push(other),
        }
    }
    out
}

/// What follows a backslash outside of brackets.
fn escape(out: &mut String, rest: &mut Peekable<Chars<'_>>) {
    match rest.next() {
        Some('Q') => quoted(out, rest),
        Some('b') => out.push_str(r"(?-u:\b)"),
        Some('B') => out.push_str(r"(?-u:\B)"),
        other => escaped(out, other, rest),
    }
}

/// What follows a backslash and means the same within and outside of brackets.
fn escaped(out: &mut String, letter: Option<char>, rest: &mut Peekable<Chars<'_>>) {
    match letter {
        Some('d') => out.push_str("[0-9]"),
        Some('D') => out.push_str("[^0-9]"),
        Some('w') => out.push_str("[0-9A-Za-z_]"),
        Some('W') => out.push_str("[^0-9A-Za-z_]"),
        Some('s') => out.push_str(r"[\t\n\f\r ]"),
        Some('S') => out.push_str(r"[^\t\n\f\r ]"),
        Some(mark) if mark.is_ascii_punctuation() => literal(out, mark),
        Some(other) => {
            out.extend(['\\', other]);
            // As in `\x{e9}` and `\p{Greek}`.
            if rest.peek() == Some(&'{') && matches!(other, 'x' | 'p' | 'P') {
                out.extend(rest.by_ref().take_while(|letter| *letter != '}'));
                out.push('}');
            }
        }
        // Not valid, and stays so.
        None => out.push('\\'),
    }
}

/// Up to `\E` or the end, everything means itself.
fn quoted(out: &mut String, rest: &mut Peekable<Chars<'_>>) {
    while let Some(letter) = rest.next() {
        if letter == '\\' && rest.peek() == Some(&'E') {
            rest.next();
            return;
        }
        literal(out, letter);
    }
}

fn literal(out: &mut String, letter: char) {
    out.push_str(&format!(r"\x{{{:x}}}", u32::from(letter)));
}

/// What follows an opening bracket, up to the closing one.
fn class(out: &mut String, rest: &mut Peekable<Chars<'_>>) {
    out.push('[');
    if rest.next_if_eq(&'^').is_some() {
        out.push('^');
    }
    let mut is_first = true;
    let mut follows_range_sign = false;
    while let Some(letter) = rest.next() {
        let mut is_range_sign = false;
        match letter {
            ']' if !is_first => {
                out.push(']');
                return;
            }
            '\\' => {
                let letter = rest.next();
                escaped(out, letter, rest);
            }
            '[' if rest.peek() == Some(&':') => named_class(out, rest),
            '-' if !is_first && !follows_range_sign => {
                is_range_sign = true;
                out.push('-');
            }
            '[' | ']' | '&' | '~' | '-' | '^' => literal(out, letter),
            other => out.push(other),
        }
        is_first = false;
        follows_range_sign = is_range_sign;
    }
    // Not closed: not valid, and stays so.
}

/// A class such as `[:alpha:]`, of which the first bracket is read; or only a bracket.
fn named_class(out: &mut String, rest: &mut Peekable<Chars<'_>>) {
    let name: String = rest.clone().take_while(|letter| *letter != ']').collect();
    let inner = name.strip_prefix(':').and_then(|name| name.strip_suffix(':')).unwrap_or_default();
    let is_name = inner.trim_start_matches('^').bytes().all(|byte| byte.is_ascii_lowercase());
    if inner.is_empty() || !is_name {
        literal(out, '[');
        return;
    }
    out.extend(['[', ':']);
    out.push_str(inner);
    out.push_str(":]");
    // The name and the bracket behind it.
    rest.nth(name.chars().count());
}

/// True if what follows an opening brace is a count: `{2}`, `{2,}`, `{2,3}`.
fn begins_count(rest: &Peekable<Chars<'_>>) -> bool {
    let mut rest = rest.clone();
    let mut digits = 0;
    let mut commas = 0;
    loop {
        match rest.next() {
            Some('0'..='9') => digits += 1,
            Some(',') if digits > 0 && commas == 0 => commas += 1,
            Some('}') => return digits > 0,
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_in_go() {
        for (pattern, found_in, not_in) in [
            ("a.c", "xabcx", "a\nc"),
            ("^a$", "a", "a\n"),
            (r"^\d+$", "12", "１２"),
            (r"^\w+$", "a_1", "é"),
            (r"^[\w.]+$", "a.b", "é"),
            (r"^\S$", "é", " "),
            (r"^[^\s]$", "\u{a0}", "\t"),
            (r"\bb\b", "éb", "ab"),
            (r"a\Bb", "ab", "a b"),
            (r"^\<a\>$", "<a>", "a"),
            (r"^\Qa.b\E+$", "a.bbb", "axb"),
            (r"^\Q[", "[", "a"),
            (r"^[[a]$", "[", "b"),
            (r"^[a&&b]$", "&", "c"),
            (r"^[a~~b]$", "~", "c"),
            (r"^[+--]$", ",", "a"),
            (r"^[--/]$", ".", "a"),
            (r"^[]a]$", "]", "b"),
            (r"^[^]a]$", "b", "]"),
            (r"^[a\]]$", "]", "b"),
            (r"^[a^]$", "^", "b"),
            (r"^[[:alpha:]_]+$", "a_b", "1"),
            (r"^[[:^alpha:]]$", "1", "a"),
            (r"^[a:]+$", "a:", "b"),
            (r"^a{2}$", "aa", "a"),
            (r"^a{,2}$", "a{,2}", "aa"),
            (r"^{a}$", "{a}", "a"),
            (r"^a{2,}$", "aaa", "a"),
            (r"(?i)^straße$", "STRAßE", "strasse"),
            (r"^\pL+$", "é", "1"),
            (r"^\x{e9}$", "é", "e"),
            (r"^(?P<name>a|b)+$", "abba", "c"),
            (r"\.com$", "a.com", "acom"),
        ] {
            let parsed = Pattern::parse(pattern).unwrap_or_else(|| panic!("{pattern} is valid"));
            assert!(parsed.is_in(found_in), "{pattern} is in {found_in}");
            assert!(!parsed.is_in(not_in), "{pattern} is not in {not_in}");
        }
    }

    #[test]
    fn what_is_not_valid() {
        for pattern in
            ["(", "[", "[a", "*", "a\\", r"\8", "(?=a)", "[b-a]", "((a{1000}){1000}){1000}"]
        {
            assert!(Pattern::parse(pattern).is_none(), "{pattern}");
        }
    }
}
