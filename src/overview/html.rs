//! The overview as a page without scripts and outside resources.

use std::fmt::Write as _;

use serde_json::Value;

use super::{COLUMNS, Overview};

const STYLE: &str = "\
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem;\
color:#1c1e21;background:#fff}\
h1{font-size:1.4rem}ul{padding-left:1.2rem}\
.healthy{color:#12703a}.degraded{color:#b3261e}\
table{border-collapse:collapse;width:100%}\
th,td{text-align:left;padding:.35rem .6rem;border-bottom:1px solid #d8dadf}\
tr.degraded td:first-child{border-left:4px solid #b3261e}\
@media(prefers-color-scheme:dark){body{color:#e4e6eb;background:#18191a}\
.healthy{color:#5fd38d}.degraded{color:#ff8a80}th,td{border-color:#3a3b3c}}";

/// The page. `status` is the JSON of `/status`; nothing of it is shown that is not for everybody.
pub fn html(status: &Value) -> String {
    let overview = Overview::of(status);
    let verdict = overview.verdict();
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <meta http-equiv=\"refresh\" content=\"5\">\n<title>Pilotlight: {verdict}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<h1>Pilotlight {}: <span class=\"{verdict}\">\
         {verdict}</span></h1>\n<ul>\n",
        escaped(&overview.version)
    );
    for fact in &overview.facts {
        let _ = writeln!(page, "<li>{}</li>", escaped(fact));
    }
    page.push_str("</ul>\n<table>\n<thead><tr>");
    for column in COLUMNS {
        let _ = write!(page, "<th scope=\"col\">{column}</th>");
    }
    page.push_str("</tr></thead>\n<tbody>\n");
    for row in &overview.environments {
        let class = if row.is_healthy { "healthy" } else { "degraded" };
        let _ = write!(page, "<tr class=\"{class}\">");
        for cell in row.cells() {
            let _ = write!(page, "<td>{}</td>", escaped(cell));
        }
        page.push_str("</tr>\n");
    }
    page.push_str(
        "</tbody>\n</table>\n<p>The same for programs: <a href=\"/status\">/status</a>. This page \
         reads itself again every five seconds.</p>\n</body>\n</html>\n",
    );
    page
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overview::tests::sample;

    #[test]
    fn the_page_shows_every_environment_and_no_key() {
        let page = html(&sample());
        for part in [
            "<title>Pilotlight: degraded</title>",
            "<li>local store: unavailable (disk full)</li>",
            "<tr class=\"healthy\"><td>Shop &lt;1&gt; / Test &amp; more (small)</td><td>live</td>",
            "<tr class=\"degraded\"><td>two</td><td>none</td>",
        ] {
            assert!(page.contains(part), "{part} in {page}");
        }
        assert!(!page.contains("sdk-") && !page.contains("<script") && !page.contains("://"));
    }
}
