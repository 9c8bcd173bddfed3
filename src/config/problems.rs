//! Problems and warnings of a configuration, with their places. Problems prevent the start,
//! warnings do not.
//!
//! Texts never hold the value of a secret option, so they may be printed and logged.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Largest number of problems that are kept. A file that is not a configuration (a binary, a core
/// dump) would otherwise print one line for each of its lines.
const PROBLEMS_MAX: usize = 100;

/// The place of a value, or of a missing one.
///
/// The order is the order of the report: the file from top to bottom, then the variables, then what
/// has no place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A line of the configuration file.
    Line {
        /// The file.
        file: Arc<Path>,
        /// The line, counted from 1.
        line: usize,
        /// The section and option on it, as far as they could be read: `[Main] port`.
        name: String,
    },
    /// A file as a whole: the configuration file, or the file of a secret.
    File(PathBuf),
    /// A variable of the environment.
    Variable(String),
    /// An option that is set nowhere: `[AutoConfig] key (AUTO_CONFIG_KEY)`.
    Unset(String),
    /// The configuration as a whole.
    Configuration,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line { file, line, name } if name.is_empty() => {
                write!(f, "{}:{line}", file.display())
            }
            Self::Line { file, line, name } => write!(f, "{}:{line}: {name}", file.display()),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable(name) | Self::Unset(name) => f.write_str(name),
            Self::Configuration => f.write_str("configuration"),
        }
    }
}

/// One reason why the configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Its place.
    pub place: Place,
    /// The problem, as a phrase: `"soon" is not a duration`.
    pub what: String,
    /// The allowed values, if a few words can name them.
    pub allowed: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)?;
        match &self.allowed {
            Some(allowed) => write!(f, "; allowed: {allowed}"),
            None => Ok(()),
        }
    }
}

/// All reasons why the configuration cannot be used, one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    /// The problems in the order of their places; never empty.
    problems: Vec<Problem>,
    /// The number of problems that were left out.
    left_out: usize,
}

impl Problems {
    /// Sorts the problems and cuts the list; `None` if there is none.
    pub(super) fn from_list(mut problems: Vec<Problem>) -> Option<Self> {
        problems.sort();
        problems.dedup();
        let left_out = problems.len().saturating_sub(PROBLEMS_MAX);
        problems.truncate(PROBLEMS_MAX);
        (!problems.is_empty()).then_some(Self { problems, left_out })
    }

    /// One line for each problem, then the number of those left out. A text from outside may
    /// contain a line break: the program that prints the lines escapes it.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let more = (self.left_out > 0).then(|| format!("and {} more problems", self.left_out));
        self.problems.iter().map(ToString::to_string).chain(more)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, line) in self.lines().enumerate() {
            let line_break = if index == 0 { "" } else { "\n" };
            write!(f, "{line_break}{line}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// A message for the operator that does not prevent the start.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Warning {
    /// Its place.
    pub place: Place,
    /// The message, as a phrase.
    pub what: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(line: usize, name: &str) -> Place {
        Place::Line { file: Path::new("/etc/x.conf").into(), line, name: name.to_owned() }
    }

    fn problem(place: Place) -> Problem {
        Problem { place, what: "is wrong".to_owned(), allowed: None }
    }

    #[test]
    fn a_problem_is_one_line_with_its_place() {
        let check = |problem: Problem, expected: &str| assert_eq!(problem.to_string(), expected);
        check(problem(line(3, "[Main] port")), "/etc/x.conf:3: [Main] port: is wrong");
        check(problem(line(3, "")), "/etc/x.conf:3: is wrong");
        check(problem(Place::Variable("PORT".to_owned())), "PORT: is wrong");
        check(problem(Place::File("/etc/x.conf".into())), "/etc/x.conf: is wrong");
        check(problem(Place::Configuration), "configuration: is wrong");
        let allowed = Some("1 to 9".to_owned());
        check(
            Problem { allowed, ..problem(Place::Unset("[Main] port (PORT)".to_owned())) },
            "[Main] port (PORT): is wrong; allowed: 1 to 9",
        );
    }

    #[test]
    fn problems_stand_in_the_order_of_the_file_and_each_once() {
        let problems = Problems::from_list(vec![
            problem(Place::Configuration),
            problem(Place::Variable("A".to_owned())),
            problem(line(10, "")),
            problem(line(9, "")),
            problem(line(9, "")),
        ])
        .expect("there are problems");
        assert_eq!(
            problems.to_string(),
            "/etc/x.conf:9: is wrong\n/etc/x.conf:10: is wrong\nA: is wrong\n\
             configuration: is wrong"
        );
        assert_eq!(Problems::from_list(vec![]), None);
    }

    #[test]
    fn a_flood_of_problems_is_cut() {
        let many = (0..PROBLEMS_MAX + 7).map(|at| problem(line(at, ""))).collect();
        let problems = Problems::from_list(many).expect("there are problems");
        assert_eq!(problems.lines().count(), PROBLEMS_MAX + 1);
        assert!(problems.to_string().ends_with("\nand 7 more problems"));
    }
}
