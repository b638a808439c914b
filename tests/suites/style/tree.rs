//! Which files may exist, and where.

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

/// The files and folders in the root of the repository.
pub(crate) const ROOT_FILES: [&str; 21] = [
    ".ci",
    ".gitignore",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "SECURITY.md",
    "backends",
    "bench",
    "benches",
    "ci",
    "core",
    "docs",
    "extras",
    "fuzz",
    "rustfmt.toml",
    "std-shim",
    "tests",
];
/// Whether cargo, a `mod` line or a `#[path]` names the file.
pub(crate) fn is_named(source: &Source, sources: &[Source]) -> bool {
    let (folder, file) = source.path.rsplit_once('/').unwrap();
    let name = file.strip_suffix(".rs").unwrap();
    let declared_in = |parent: &str| {
        let mut parents = sources.iter().filter(|source| source.path == parent);
        parents.any(|parent| parent.text.lines().any(|line| declares(line, name)))
    };
    let included_below = |folder: &str, path: &str| {
        let mut includers = sources
            .iter()
            .filter(|source| source.path.starts_with(folder));
        includers.any(|source| source.text.contains(&format!("{path}/{file}\"]")))
    };
    let in_manifest = |manifest: &str, path: &str| {
        let text = fs::read_to_string(root().join(manifest)).unwrap();
        text.contains(&format!("path = \"{path}/{file}\""))
    };
    match folder {
        "tests/suites" => in_manifest("tests/Cargo.toml", "suites"),
        "fuzz/fuzz_targets" => in_manifest("fuzz/Cargo.toml", "fuzz_targets"),
        "tests/behaviours" => {
            included_below("tests/suites/", "\"../behaviours")
                || declared_in("tests/behaviours/all.rs")
        }
        "tests/suites/conformance" => {
            declared_in("tests/suites/conformance.rs")
                || declared_in("tests/suites/conformance/contract.rs")
        }
        "core/models" => {
            included_below("core/src/", "../models") || declared_in("core/models/base.rs")
        }
        "core/fuzz" => {
            included_below("core/src/", "\"../fuzz") || declared_in("core/fuzz/targets.rs")
        }
        _ if folder.starts_with("extras/") && folder.ends_with("/tests") => true,
        _ if folder.starts_with("extras/") && folder.contains("/tests/") => {
            let (tests, shared) = folder.rsplit_once('/').unwrap();
            included_below(&format!("{tests}/"), &format!("\"{shared}"))
                || declared_in(&format!("{folder}/all.rs"))
        }
        _ if ["lib", "main", "build"].contains(&name) => true,
        _ if ["/bin", "/examples", "/benches", "core/tests"]
            .iter()
            .any(|end| folder.ends_with(end)) =>
        {
            true
        }
        _ if folder.ends_with("/src") => {
            declared_in(&format!("{folder}/lib.rs")) || declared_in(&format!("{folder}/main.rs"))
        }
        _ => declared_in(&format!("{folder}.rs")),
    }
}

pub(crate) fn declares(line: &str, name: &str) -> bool {
    let item = line
        .trim_start()
        .trim_start_matches("pub(crate) ")
        .trim_start_matches("pub ");
    item == format!("mod {name};")
}
