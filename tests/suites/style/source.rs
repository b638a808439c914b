//! The files that the rules read, and the code in each line.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

/// A file of the repository: its path from the root, and its text.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) may_be_unsafe: bool,
}

/// A line, and its code without comments and without the contents of strings.
pub(crate) struct Line<'a> {
    pub(crate) number: usize,
    pub(crate) code: String,
    pub(crate) raw: &'a str,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        Source {
            path: path.into(),
            text: text.into(),
            may_be_unsafe: opts_in(text),
        }
    }

    pub(crate) fn lines(&self) -> Vec<Line<'_>> {
        self.text
            .lines()
            .enumerate()
            .map(|(i, raw)| Line {
                number: i + 1,
                code: code_of(raw),
                raw,
            })
            .collect()
    }

    /// The lines outside of unit tests.
    pub(crate) fn library_lines(&self) -> Vec<Line<'_>> {
        let mut lines = self.lines();
        if self.path.ends_with("/tests.rs") {
            lines.clear();
        }
        while let Some(start) = lines
            .iter()
            .position(|line| begins_tests(line.code.trim_start()))
        {
            let len = item_len(&lines[start + 1..]);
            lines.drain(start..=start + len);
        }
        lines
    }

    pub(crate) fn is_library(&self) -> bool {
        ["core/src/", "backends/src/", "std-shim/src/"]
            .iter()
            .any(|folder| self.path.starts_with(folder))
    }
}

/// Whether a line begins what is compiled for tests only.
fn begins_tests(code: &str) -> bool {
    code.starts_with("#[cfg(test)]") || code.starts_with("#[cfg(all(test, not(loom)))]")
}

/// How many lines the item at the start of `lines` takes. In formatted code it ends at the first
/// closing brace with its indentation.
pub(crate) fn item_len(lines: &[Line<'_>]) -> usize {
    let Some(first) = lines.first() else { return 0 };
    let indent = first.raw.len() - first.raw.trim_start().len();
    let end = format!("{}}}", " ".repeat(indent));
    if first.code.trim_end().ends_with(['}', ';']) {
        return 1;
    }
    lines
        .iter()
        .position(|line| line.raw.trim_end() == end)
        .map_or(lines.len(), |end| end + 1)
}

/// The code of `line`, without its comment and with empty strings. Correct for formatted code
/// without strings of several lines.
pub(crate) fn code_of(line: &str) -> String {
    let mut code = String::new();
    let mut chars = line.chars().peekable();
    let mut in_string = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' if in_string => _ = chars.next(),
            '\'' if !in_string && chars.peek() == Some(&'"') => _ = (chars.next(), chars.next()),
            '"' => in_string = !in_string,
            '/' if !in_string && chars.peek() == Some(&'/') => return code,
            _ if in_string => {}
            _ => code.push(c),
        }
    }
    code
}

/// Whether `word` occurs in `code` as a whole identifier.
pub(crate) fn has_word(code: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word)
        .any(|(at, _)| !code[..at].ends_with(part) && !code[at + word.len()..].starts_with(part))
}

/// Whether a file opts in to unsafe code and gives a reason, which also holds for the files of its
/// folder.
pub(crate) fn opts_in(text: &str) -> bool {
    let text: String = text.split_whitespace().collect();
    text.contains("#![allow(unsafe_code,reason=")
}

pub(crate) type Rule = fn(&Source) -> Vec<String>;

/// Fails with the violations of `rule` in the Rust files.
pub(crate) fn check(rule: Rule) {
    check_in(sources(), rule);
}

/// Fails with the violations of `rule` in `sources`.
pub(crate) fn check_in<'a>(sources: impl IntoIterator<Item = &'a Source>, rule: Rule) {
    let violations: Vec<_> = sources
        .into_iter()
        .flat_map(|source| {
            rule(source)
                .into_iter()
                .map(|violation| format!("{}: {violation}", source.path))
        })
        .collect();
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// All Rust files of the repository.
pub(crate) fn sources() -> &'static [Source] {
    static SOURCES: OnceLock<Vec<Source>> = OnceLock::new();
    SOURCES.get_or_init(|| {
        let mut found = Vec::new();
        collect("", &[".rs"], &mut found);
        let opted_in: Vec<_> = found
            .iter()
            .filter(|source| source.may_be_unsafe)
            .map(|source| source.path.replace(".rs", "/"))
            .collect();
        for source in &mut found {
            source.may_be_unsafe |= opted_in.iter().any(|path| source.path.starts_with(path));
        }
        assert!(found.len() > 200, "only {} sources found", found.len());
        found
    })
}

/// The other files that are written by hand: scripts, settings and prose.
pub(crate) fn texts() -> &'static [Source] {
    static TEXTS: OnceLock<Vec<Source>> = OnceLock::new();
    TEXTS.get_or_init(|| {
        let mut found = Vec::new();
        collect("", &[".md", ".sh", ".py", ".toml", ".ci/run"], &mut found);
        assert!(found.len() > 30, "only {} texts found", found.len());
        found
    })
}

/// Reads the files below `folder` whose path ends with one of `ends`, except those of git and build
/// output.
fn collect(folder: &str, ends: &[&str], found: &mut Vec<Source>) {
    for entry in fs::read_dir(root().join(folder)).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let path = format!("{folder}{name}");
        if entry.file_type().unwrap().is_dir() {
            if ![".git", "target"].contains(&name.as_str()) {
                collect(&format!("{path}/"), ends, found);
            }
        } else if ends.iter().any(|end| path.ends_with(end)) {
            let text = fs::read_to_string(entry.path()).unwrap();
            found.push(Source::new(&path, &text));
        }
    }
}
