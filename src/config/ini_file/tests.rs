use proptest::prelude::*;

use super::*;

/// The options of a text, one line each: `[Section "name"] option = value`, or `option` alone.
fn read(text: &[u8]) -> (String, String) {
    let (file, problems) = parse(Path::new("f"), text);
    let mut shown = String::new();
    for Assignment { header, option, value, line } in &file.assignments {
        let header = &file.headers[*header];
        shown += &match value {
            Raw::Blank => format!("{line} {header} {option}\n"),
            Raw::Text(value) => format!("{line} {header} {option} = {value}\n"),
        };
    }
    let problems = problems.iter().map(|problem| format!("{problem}\n")).collect();
    (shown, problems)
}

#[track_caller]
fn check(text: &str, expected: &str) {
    let (shown, problems) = read(text.as_bytes());
    assert_eq!(problems, "", "{text:?}");
    let shown = shown.strip_suffix('\n').unwrap_or(&shown);
    assert_eq!(shown, expected, "{text:?}");
}

#[track_caller]
fn check_value(written: &str, expected: &str) {
    check(&format!("[S]\nv ={written}"), &format!("2 [S] v = {expected}"));
}

#[track_caller]
fn check_problem(text: impl AsRef<[u8]>, expected: &str) {
    let (_, problems) = read(text.as_ref());
    let (first, rest) = problems.split_once('\n').unwrap_or((&problems, ""));
    assert!(first.starts_with(expected), "{first:?} begins with {expected:?}");
    assert_eq!(rest, "", "one problem only");
}

#[test]
fn a_whole_file_is_read() {
    let text = r#"; comment
[Main]
  port = 8030
  logLevel = "warn"
  exitOnError          ; blank boolean means true
[Environment "shop prod"]
  sdkKey = "sdk-1"
  allowedOrigin = https://a.example
  allowedOrigin = https://b.example
# comment
[Redis]
  url = "redis://cache:6379"
  password = "p#w;d"
"#;
    check(
        text,
        "3 [Main] port = 8030\n4 [Main] logLevel = warn\n5 [Main] exitOnError\n\
         7 [Environment \"shop prod\"] sdkKey = sdk-1\n\
         8 [Environment \"shop prod\"] allowedOrigin = https://a.example\n\
         9 [Environment \"shop prod\"] allowedOrigin = https://b.example\n\
         12 [Redis] url = redis://cache:6379\n13 [Redis] password = p#w;d",
    );
    let (plain, _) = read(text.as_bytes());
    check(&text.replace('\n', "\r\n"), plain.trim_end());
    check(&format!("\u{feff}{text}"), plain.trim_end());
}

#[test]
fn headers_take_names_with_escapes() {
    check("[ Main ] ; why\nv=1", "2 [Main] v = 1");
    check("[Environment \"a\\\"b\\\\c\"]\nv=1", "2 [Environment \"a\\\"b\\\\c\"] v = 1");
    check("[Environment \"Größe\"]\nv=1", "2 [Environment \"Größe\"] v = 1");
    check("[Main]\na=1\n[Other]\n[MAIN]\nb=2", "2 [Main] a = 1\n5 [MAIN] b = 2");
    check("[Main]", "");
}

#[test]
fn values_are_trimmed_unquoted_and_cut_at_comments() {
    check_value("", "");
    check_value("   ", "");
    check_value(" a b \t", "a b");
    check_value(" a ; comment", "a");
    check_value(" a#comment", "a");
    check_value(" \"\"", "");
    check_value(" \" a \" ", " a ");
    check_value(" x\" ; \"y", "x ; y");
    check_value(" \"a\\\"b\\\\c\\nd\\te\"", "a\"b\\c\nd\te");
    check_value(" a\\\"b", "a\"b");
    check_value(" a \\\n  b", "a   b");
    check_value(" a\\\r\nb\r", "ab");
    check_value(" \\\n b", " b");
    check_value(" a=b", "a=b");
}

#[test]
fn a_continued_value_keeps_the_count_of_lines() {
    check("[S]\na = 1\\\n2\\\n3\nb = 4", "2 [S] a = 123\n5 [S] b = 4");
}

#[test]
fn options_may_have_no_value() {
    check("[S]\nalone", "2 [S] alone");
    check(
        "[S]\nalone # why\n alone\t\nwith-hyphen2",
        "2 [S] alone\n3 [S] alone\n4 [S] with-hyphen2",
    );
}

#[test]
fn each_mistake_is_named_with_its_line() {
    check_problem("v = 1", "f:1: v: is before the first section");
    check_problem("[]\n", "f:1: the name of a section must begin with a letter");
    check_problem("[1a]\n", "f:1: the name of a section must begin with a letter");
    check_problem("\n[Section.Sub]\n", "f:2: the section header has no closing ]");
    check_problem("[Section", "f:1: the section header has no closing ]");
    check_problem("[Section \"\"]\n", "f:1: the name in quotation marks is empty");
    check_problem("[Section \"a]\n", "f:1: the closing quotation mark of the name is missing");
    check_problem("[Section \"a\\n\"]\n", "f:1: in a quoted name, \\ is allowed only before");
    check_problem("[Section \"a\" b]\n", "f:1: the section header has no closing ]");
    check_problem("[S] v = 1\n", "f:1: [S]: only a comment may follow");
    check_problem("[S]\nv 1\n", "f:2: [S] v: expected = after");
    check_problem("[S]\nv.w = 1\n", "f:2: [S] v: expected = after");
    check_problem("[S]\n= 1\n", "f:2: expected a section, an option or a comment");
    check_problem("[S]\nv = \"a\nw = 1", "f:2: [S] v: the closing quotation mark is missing");
    check_problem("[S]\nv = \"a\\x\"", "f:2: [S] v: inside quotation marks, \\ is allowed only");
    check_problem("[S]\nv = \"a\\\n", "f:2: [S] v: inside quotation marks, \\ is allowed only");
    check_problem("[S]\nv = C:\\dir", "f:2: [S] v: outside quotation marks, \\ is allowed only");
    check_problem("[S]\nv = a\\", "f:2: [S] v: outside quotation marks, \\ is allowed only");
    check_problem(b"[S]\nv = \xff\xfe\n", "f:2: is not UTF-8 text");
    check_problem("[S]\nv = \0\n", "f:2: contains a NUL byte");
}

#[test]
fn all_mistakes_are_found_and_the_rest_is_read() {
    let (shown, problems) = read(b"[S]\na = \"\n= 2\nb = 3\n[T\nc = 4\nd 5\n[U]\ne = 6\n");
    assert_eq!(shown, "4 [S] b = 3\n9 [U] e = 6\n");
    let lines: Vec<_> = problems.lines().map(|line| &line[..4]).collect();
    assert_eq!(lines, ["f:2:", "f:3:", "f:5:", "f:7:"]);
}

#[test]
fn nothing_of_a_value_is_in_a_problem() {
    let (_, problems) =
        read(b"[S]\npassword = \"hunter2\npassword = hunter\\2\npassword hunter2\n");
    assert_eq!(problems.lines().count(), 3);
    assert!(!problems.contains("hunter"), "{problems}");
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        parse(Path::new("f"), &bytes);
    }

    #[test]
    fn no_likely_text_panics(text in "(\\[|\\]|\"|\\\\|\n|\r|=|;|#|a|Ä| |\u{0}|[A-Z]+ ?){0,60}") {
        let (file, problems) = parse(Path::new("f"), text.as_bytes());
        let lines = text.split('\n').count();
        prop_assert!(file.assignments.iter().all(|a| a.line >= 1 && a.line <= lines));
        prop_assert!(file.assignments.iter().all(|a| a.header < file.headers.len()));
        prop_assert!(problems.len() <= 2 * lines);
    }

    #[test]
    fn any_text_survives_quoting(value in "[^\u{0}\r]{0,40}") {
        let quoted = value
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n")
            .replace('\t', "\\t");
        let (shown, problems) = read(format!("[S]\nv = \"{quoted}\"\n").as_bytes());
        prop_assert_eq!(problems, "");
        prop_assert_eq!(shown, format!("2 [S] v = {value}\n"));
    }
}
