//! The overview as text for a terminal.

use std::fmt::Write as _;

use serde_json::Value;

use super::{COLUMNS, Overview};

/// The text. `status` is the JSON of `/status`.
pub fn text(status: &Value) -> String {
    let overview = Overview::of(status);
    let mut text = format!("Pilotlight {}: {}\n", overview.version, overview.verdict());
    for fact in &overview.facts {
        let _ = writeln!(text, "  {fact}");
    }
    if overview.environments.is_empty() {
        return text;
    }
    let titles = COLUMNS.map(str::to_uppercase);
    let titles = titles.each_ref().map(String::as_str);
    let rows: Vec<_> =
        [titles].into_iter().chain(overview.environments.iter().map(|row| row.cells())).collect();
    let mut widths = [0; COLUMNS.len()];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    text.push('\n');
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overview::tests::sample;

    #[test]
    fn the_text_is_a_table() {
        let expected = "\
Pilotlight 1.2.3: degraded
  2 environments: 1 have data, 1 of them live from their source
  oldest data: 25 h
  open streams: 7
  environments from LaunchDarkly: interrupted
  local store: unavailable (disk full)

ENVIRONMENT                     DATA  AGE      LAUNCHDARKLY  FLAG STORE   STREAMS  FLAGS
Shop <1> / Test & more (small)  live  0 s      valid         valid        7        3
two                             none  unknown  interrupted   interrupted  0        -
";
        assert_eq!(text(&sample()), expected);
    }
}
