//! Parser of ld-relay's file format: sections, options, values. It does not know which of them
//! exist.
//!
//! The dialect is that of ld-relay v8's INI reader, which is close to git's. Unlike that reader,
//! this parser continues after a mistake: it reports the mistake with its line and skips the line.
//! It never panics, whatever the bytes are.

use std::collections::BTreeMap;
use std::fmt;
use std::iter::Peekable;
use std::path::Path;
use std::str::Chars;
use std::sync::Arc;

use super::problems::{Place, Problem};

/// The form of a section header, for messages.
const HEADERS: &str = "[Section] or [Section \"name\"], alone on the line";

const LONE_BACKSLASH: &str = "outside quotation marks, \\ is allowed only before a line break \
                              or \"; put the value in quotation marks and write \\\\";

/// The value of an option as it is written.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Raw {
    /// There is no `=`: `true` for a boolean, a mistake for everything else.
    Blank,
    /// The text after the `=`, without quotation marks; may be empty.
    Text(String),
}

impl Raw {
    /// The text after the `=`.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Blank => None,
            Self::Text(text) => Some(text),
        }
    }
}

/// A section header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The section's name as it is spelled in the file.
    pub(super) name: String,
    /// The name in quotation marks, if there is one; never empty.
    pub(super) subsection: Option<String>,
    /// Its line, from 1.
    pub(super) line: usize,
}

impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&section_title(&self.name, self.subsection.as_deref()))
    }
}

/// The way sections are named in messages: `[Environment "shop"]`.
pub(super) fn section_title(name: &str, subsection: Option<&str>) -> String {
    match subsection {
        // Escaped, so that a name from a variable cannot break the line of a message.
        Some(subsection) => format!("[{name} {subsection:?}]"),
        None => format!("[{name}]"),
    }
}

/// One option in the file.
pub(super) struct Assignment {
    /// Index of its header.
    pub(super) header: usize,
    /// The option's name as it is spelled in the file.
    pub(super) option: String,
    /// Its value. Has no `Debug`: it may be a secret.
    pub(super) value: Raw,
    /// Its line, from 1.
    pub(super) line: usize,
}

/// The content of a file.
pub(super) struct IniFile {
    /// The file.
    pub(super) path: Arc<Path>,
    /// Headers in the order of the file; a section may have several.
    pub(super) headers: Vec<Header>,
    /// Options in the order of the file.
    pub(super) assignments: Vec<Assignment>,
    /// Indices of each option's assignments, by section, name and option, in lower case except for
    /// the name.
    index: BTreeMap<(String, Option<String>, String), Vec<usize>>,
}

impl IniFile {
    /// The values of one option, in the order of the file.
    pub(super) fn values(
        &self,
        section: &str,
        name: Option<&str>,
        option: &str,
    ) -> impl Iterator<Item = &Assignment> {
        let key =
            (section.to_ascii_lowercase(), name.map(str::to_owned), option.to_ascii_lowercase());
        self.index.get(&key).into_iter().flatten().map(|at| &self.assignments[*at])
    }
}

/// Parses the bytes of a file. Mistakes are in the problems, not in the result.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> (IniFile, Vec<Problem>) {
    let path: Arc<Path> = path.into();
    let mut problems = Vec::new();
    let text = readable_lines(&path, bytes, &mut problems);
    let file = IniFile {
        path: path.clone(),
        headers: Vec::new(),
        assignments: Vec::new(),
        index: BTreeMap::new(),
    };
    let mut parser =
        Parser { rest: text.chars().peekable(), line: 1, section: Section::NotYet, file, problems };
    while let Some(c) = parser.rest.peek().copied() {
        parser.statement(c);
    }
    (parser.file, parser.problems)
}

/// The text of the file. Lines that are not text are replaced by empty lines.
fn readable_lines(path: &Arc<Path>, bytes: &[u8], problems: &mut Vec<Problem>) -> String {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let mut text = String::with_capacity(bytes.len());
    for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        if index > 0 {
            text.push('\n');
        }
        let what = match std::str::from_utf8(line) {
            Ok(line) if !line.contains('\0') => {
                text.push_str(line);
                continue;
            }
            Ok(_) => "contains a NUL byte",
            Err(_) => "is not UTF-8 text",
        };
        problems.push(Problem {
            place: Place::Line { file: path.clone(), line: index + 1, name: String::new() },
            what: what.to_owned(),
            allowed: None,
        });
    }
    text
}

/// The section an option belongs to.
enum Section {
    /// No header was seen.
    NotYet,
    /// The last header is invalid: only the syntax of what follows is checked.
    Unknown,
    /// Index of the header.
    At(usize),
}

struct Parser<'a> {
    rest: Peekable<Chars<'a>>,
    line: usize,
    section: Section,
    file: IniFile,
    problems: Vec<Problem>,
}

impl Parser<'_> {
    fn statement(&mut self, first: char) {
        match first {
            '\n' => self.skip_line(),
            ';' | '#' => self.skip_line(),
            '[' => self.header(),
            c if is_blank(c) => self.skip_blanks(),
            c if is_letter(c) => self.assignment(),
            _ => {
                let what = "expected a section, an option or a comment";
                self.problem(self.line, String::new(), what, None);
                self.skip_line();
            }
        }
    }

    fn header(&mut self) {
        let line = self.line;
        self.rest.next();
        match self.header_after_bracket() {
            Ok((name, subsection)) => {
                let header = Header { name, subsection, line };
                self.end_of_line(line, header.to_string());
                self.section = Section::At(self.file.headers.len());
                self.file.headers.push(header);
            }
            Err(what) => {
                self.section = Section::Unknown;
                self.problem(line, String::new(), what, Some(HEADERS));
                self.skip_line();
            }
        }
    }

    fn header_after_bracket(&mut self) -> Result<(String, Option<String>), &'static str> {
        self.skip_blanks();
        let name = self.identifier().ok_or("the name of a section must begin with a letter")?;
        self.skip_blanks();
        let subsection = match self.rest.peek() {
            Some('"') => Some(self.quoted_name()?),
            Some(_) | None => None,
        };
        self.skip_blanks();
        match self.rest.peek() {
            Some(']') => {
                self.rest.next();
                Ok((name, subsection))
            }
            Some(_) | None => Err("the section header has no closing ]"),
        }
    }

    /// Parses the name of a subsection, which has only two escapes.
    fn quoted_name(&mut self) -> Result<String, &'static str> {
        self.rest.next();
        let mut name = String::new();
        loop {
            match self.rest.peek().copied() {
                None | Some('\n') => {
                    return Err("the closing quotation mark of the name is missing");
                }
                Some('"') => break,
                Some('\\') => {
                    self.rest.next();
                    match self.rest.peek().copied() {
                        Some(c @ ('"' | '\\')) => name.push(c),
                        Some(_) | None => {
                            return Err("in a quoted name, \\ is allowed only before \" and \\");
                        }
                    }
                }
                Some(c) => name.push(c),
            }
            self.rest.next();
        }
        self.rest.next();
        if name.is_empty() { Err("the name in quotation marks is empty") } else { Ok(name) }
    }

    fn assignment(&mut self) {
        let line = self.line;
        let Some(option) = self.identifier() else { return self.skip_line() };
        let name = match self.section {
            Section::At(header) => format!("{} {option}", self.file.headers[header]),
            Section::NotYet | Section::Unknown => option.clone(),
        };
        self.skip_blanks();
        let value = match self.rest.peek() {
            Some('=') => {
                self.rest.next();
                self.value()
            }
            None | Some('\n' | ';' | '#') => Ok(Raw::Blank),
            Some(_) => Err("expected = after the name of the option"),
        };
        self.skip_line();
        match (value, &self.section) {
            (Err(what), _) => self.problem(line, name, what, None),
            (Ok(_), Section::NotYet) => {
                self.problem(line, name, "is before the first section", Some(HEADERS));
            }
            (Ok(_), Section::Unknown) => {}
            (Ok(value), &Section::At(header)) => {
                let section = &self.file.headers[header];
                let key = (
                    section.name.to_ascii_lowercase(),
                    section.subsection.clone(),
                    option.to_ascii_lowercase(),
                );
                self.file.index.entry(key).or_default().push(self.file.assignments.len());
                self.file.assignments.push(Assignment { header, option, value, line });
            }
        }
    }

    /// Parses the value after the `=`, up to the end of the line or a comment; leaves both unread.
    fn value(&mut self) -> Result<Raw, &'static str> {
        self.skip_blanks();
        let mut text = String::new();
        // Blanks are kept only if something follows them.
        let mut kept = 0;
        let mut quoted = false;
        while let Some(c) = self.rest.peek().copied() {
            match c {
                '\n' => break,
                ';' | '#' if !quoted => break,
                '"' => {
                    quoted = !quoted;
                    kept = text.len();
                }
                '\\' => {
                    self.rest.next();
                    text.extend(self.escaped(quoted)?);
                    kept = text.len();
                    continue;
                }
                '\r' => {}
                c => {
                    text.push(c);
                    if quoted || !is_blank(c) {
                        kept = text.len();
                    }
                }
            }
            self.rest.next();
        }
        if quoted {
            return Err("the closing quotation mark is missing on this line");
        }
        text.truncate(kept);
        Ok(Raw::Text(text))
    }

    /// The character that an escape sequence stands for; `None` for a continued line.
    fn escaped(&mut self, quoted: bool) -> Result<Option<char>, &'static str> {
        let next = self.rest.peek().copied();
        let meant = match (quoted, next) {
            (true, Some(c @ ('"' | '\\'))) => Some(c),
            (true, Some('n')) => Some('\n'),
            (true, Some('t')) => Some('\t'),
            (true, _) => {
                return Err("inside quotation marks, \\ is allowed only before \", \\, n and t");
            }
            (false, Some('"')) => Some('"'),
            (false, Some('\r' | '\n')) => {
                self.rest.next_if_eq(&'\r');
                if self.rest.peek() != Some(&'\n') {
                    return Err(LONE_BACKSLASH);
                }
                self.line += 1;
                None
            }
            (false, _) => return Err(LONE_BACKSLASH),
        };
        self.rest.next();
        Ok(meant)
    }

    fn end_of_line(&mut self, line: usize, name: String) {
        self.skip_blanks();
        if !matches!(self.rest.peek(), None | Some('\n' | ';' | '#')) {
            self.problem(line, name, "only a comment may follow on this line", Some(HEADERS));
        }
        self.skip_line();
    }

    /// A letter, then letters, digits and hyphens.
    fn identifier(&mut self) -> Option<String> {
        let mut name = String::from(self.rest.next_if(|&c| is_letter(c))?);
        while let Some(c) = self.rest.next_if(|&c| is_letter(c) || c.is_numeric() || c == '-') {
            name.push(c);
        }
        Some(name)
    }

    fn skip_blanks(&mut self) {
        while self.rest.next_if(|&c| is_blank(c)).is_some() {}
    }

    fn skip_line(&mut self) {
        if self.rest.by_ref().any(|c| c == '\n') {
            self.line += 1;
        }
    }

    fn problem(&mut self, line: usize, name: String, what: &str, allowed: Option<&str>) {
        self.problems.push(Problem {
            place: Place::Line { file: self.file.path.clone(), line, name },
            what: what.to_owned(),
            allowed: allowed.map(str::to_owned),
        });
    }
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r')
}

fn is_letter(c: char) -> bool {
    c.is_alphabetic()
}

#[cfg(test)]
mod tests;
