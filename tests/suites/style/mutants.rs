//! The planted bugs of `ci/mutants.txt`, and the tests that scripts name.

use crate::source::{Source, root};

/// A planted bug of `ci/mutants.txt`.
#[derive(Default)]
pub(crate) struct Mutant {
    pub(crate) name: String,
    /// A file, and the piece of it that the bug replaces.
    pub(crate) changes: Vec<(String, String)>,
    /// The suite and the test that must fail.
    pub(crate) killer: (String, String),
}

/// The mutants that `ci/mutants.py` reads from `text`.
pub(crate) fn mutants(text: &str) -> Vec<Mutant> {
    let mut found: Vec<Mutant> = Vec::new();
    let (mut file, mut part, mut is_old) = (String::new(), None::<String>, false);
    for line in text.split_inclusive('\n') {
        let (word, rest) = line
            .trim_end_matches('\n')
            .split_once(' ')
            .unwrap_or((line.trim_end_matches('\n'), ""));
        match (word, &mut part) {
            ("===" | ">>>", _) => {
                if let Some(old) = part.take().filter(|_| is_old) {
                    found.last_mut().unwrap().changes.push((file.clone(), old));
                }
                part = (word == "===").then(String::new);
                is_old = false;
            }
            (_, Some(part)) => part.push_str(line),
            ("<<<", None) => (part, is_old) = (Some(String::new()), true),
            ("==", None) => found.push(Mutant {
                name: rest.into(),
                ..Mutant::default()
            }),
            ("file", None) => file = rest.into(),
            ("kill", None) => {
                let (suite, test) = rest.split_once(' ').unwrap();
                found.last_mut().unwrap().killer = (suite.into(), test.into());
            }
            _ => {}
        }
    }
    found
}

/// Whether `suite` has the test, or the fuzz target, that `test` names.
pub(crate) fn killer_exists((suite, test): &(String, String), sources: &[Source]) -> bool {
    if suite == "fuzz" {
        return root().join(format!("fuzz/fuzz_targets/{test}.rs")).exists();
    }
    let function = format!("fn {}(", test.rsplit("::").next().unwrap());
    sources.iter().any(|source| source.text.contains(&function))
}

/// The tests that a script of `ci` names in an array: lines that are one name of several words.
pub(crate) fn named_tests(script: &str) -> impl Iterator<Item = &str> {
    let is_name = |name: &str| {
        name.bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    };
    script
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .map(|line| line.rsplit("::").next().unwrap())
        .filter(move |name| name.matches('_').count() >= 2 && is_name(name))
}
