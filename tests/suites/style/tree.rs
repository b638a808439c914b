//! Which files there may be, and where.

use crate::source::{Source, root};
use std::fs;

pub(crate) fn folders_are_one_level_deep(source: &Source) -> Vec<String> {
    let below_src = source
        .path
        .split_once("/src/")
        .map_or(0, |(_, path)| path.matches('/').count());
    let mut found = Vec::new();
    if source.path.ends_with("/mod.rs") {
        found.push("a folder foo/ belongs to foo.rs".into());
    }
    if below_src > 1 {
        found.push("more than one level deep".into());
    }
    found
}
/// What stands in the root of the repository, and nothing else.
pub(crate) const ROOT_FILES: [&str; 16] = [
    ".ci",
    ".gitignore",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "backends",
    "ci",
    "core",
    "docs",
    "fuzz",
    "rustfmt.toml",
    "std-shim",
    "tests",
];
/// Where cargo or a `mod` line would have to name the file.
pub(crate) fn is_named(source: &Source, sources: &[Source]) -> bool {
    let path = source.path.as_str();
    let text_of = |path: &str| {
        sources
            .iter()
            .find(|source| source.path == path)
            .map(|source| source.text.as_str())
    };
    let (folder, file) = path.rsplit_once('/').unwrap();
    let name = file.strip_suffix(".rs").unwrap();
    if folder == "tests/suites" {
        return fs::read_to_string(root().join("tests/Cargo.toml"))
            .unwrap()
            .contains(&format!("path = \"suites/{file}\""));
    }
    if folder == "tests/behaviours" {
        let include = format!("#[path = \"../behaviours/{file}\"]");
        return sources
            .iter()
            .any(|suite| suite.path.starts_with("tests/suites/") && suite.text.contains(&include));
    }
    if folder == "core/fuzz" {
        let include = format!("#[path = \"../fuzz/{file}\"]");
        let names_it = |source: &Source| {
            source.path.starts_with("core/src/") && source.text.contains(&include)
        };
        let declares_it = |source: &Source| {
            source.path == "core/fuzz/targets.rs"
                && source.text.lines().any(|line| declares(line, name))
        };
        return sources
            .iter()
            .any(|source| names_it(source) || declares_it(source));
    }
    if folder.ends_with("/bin")
        || folder.ends_with("/examples")
        || folder.ends_with("/benches")
        || ["lib", "main"].contains(&name)
    {
        return true;
    }
    let parents = if folder.ends_with("/src") {
        [format!("{folder}/lib.rs"), format!("{folder}/main.rs")]
    } else {
        [format!("{folder}.rs"), String::new()]
    };
    parents
        .iter()
        .filter_map(|parent| text_of(parent))
        .any(|text| text.lines().any(|line| declares(line, name)))
}

pub(crate) fn declares(line: &str, name: &str) -> bool {
    let item = line
        .trim_start()
        .trim_start_matches("pub(crate) ")
        .trim_start_matches("pub ");
    item == format!("mod {name};")
}
