//! The rules for every text: how wide its lines may be, and that the files it names exist.

use crate::source::{Source, root};

/// Columns of a line. Two files fit side by side on a screen, and so do both sides of a diff.
const COLUMNS_MAX: usize = 100;

pub(crate) fn lines_are_narrow(source: &Source) -> Vec<String> {
    // Markdown cannot break a row of a table or a link, and TOML no header of a table.
    let breaks = |line: &str| match source.path.rsplit_once('.') {
        Some((_, "md")) => !line.starts_with('|') && !line.contains("://"),
        Some((_, "toml")) => line.starts_with('#'),
        _ => true,
    };
    let lines = source.text.lines().enumerate();
    lines
        .map(|(i, line)| (i + 1, line.chars().count(), line))
        .filter(|(_, columns, line)| *columns > COLUMNS_MAX && breaks(line))
        .map(|(number, columns, _)| format!("line {number}: {columns} columns"))
        .collect()
}

/// The folders at the root with which a path in prose begins.
const FOLDERS: [&str; 9] = [
    "backends/",
    "bench/",
    "benches/",
    "ci/",
    "core/",
    "docs/",
    "fuzz/",
    "std-shim/",
    "tests/",
];

pub(crate) fn paths_exist(source: &Source) -> Vec<String> {
    let is_markdown = source.path.ends_with(".md");
    let mut found = Vec::new();
    for (i, line) in source.text.lines().enumerate() {
        let comment = line.find("//").map_or("", |at| &line[at..]);
        let prose = if is_markdown { line } else { comment };
        for path in paths(prose) {
            if !root().join(path).exists() {
                found.push(format!("line {}: there is no {path}", i + 1));
            }
        }
    }
    found
}

/// The paths from the root of the repository that `prose` names. A path with a capital letter or an
/// asterisk is a pattern.
fn paths(prose: &str) -> impl Iterator<Item = &str> {
    let is_part = |c: char| c.is_alphanumeric() || "/._-*".contains(c);
    let words = prose.split(move |c| !is_part(c));
    let words = words.map(|word| word.trim_end_matches(['.', '/']));
    words.filter(|word| {
        FOLDERS.iter().any(|folder| word.starts_with(folder))
            && !word.contains(|c: char| c.is_uppercase() || c == '*')
    })
}
