//! The style of the sources, as far as a program can see it: who imports whom, how long things are, where `unsafe` and atomics may be named.
//!
//! Each rule is a function from a source to its violations, and has a sample that breaks it: a rule that cannot fail says nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// A file of the repository: its path from the root, and its text.
struct Source {
    path: String,
    text: String,
    may_be_unsafe: bool,
}

/// A line of code, comments and the contents of strings left out.
struct Line<'a> {
    number: usize,
    code: String,
    raw: &'a str,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        Source {
            path: path.into(),
            text: text.into(),
            may_be_unsafe: opts_in(text),
        }
    }

    fn lines(&self) -> Vec<Line<'_>> {
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

    /// The lines that are not for unit tests only.
    fn library_lines(&self) -> Vec<Line<'_>> {
        let mut lines = self.lines();
        if self.path.ends_with("/tests.rs") {
            lines.clear();
        }
        while let Some(start) = lines
            .iter()
            .position(|line| line.code.trim_start().starts_with("#[cfg(test)]"))
        {
            let len = item_len(&lines[start + 1..]);
            lines.drain(start..=start + len);
        }
        lines
    }

    fn is_library(&self) -> bool {
        ["core/src/", "backends/src/", "std-shim/src/"]
            .iter()
            .any(|folder| self.path.starts_with(folder))
    }
}

/// How many lines the item at the start of `lines` takes. In formatted code it ends at the first closing brace that stands as far to the
/// left as it does.
fn item_len(lines: &[Line<'_>]) -> usize {
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

/// `line` without its comment, and with empty strings. Good enough for formatted code without strings of several lines.
fn code_of(line: &str) -> String {
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

/// Whether `code` has `word` with nothing of an identifier around it.
fn has_word(code: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word)
        .any(|(at, _)| !code[..at].ends_with(part) && !code[at + word.len()..].starts_with(part))
}

/// The names that follow `root::` in the sources: `a` and `b` for `root::a::x` and `root::{a, b::y}`.
fn imports(source: &Source, root: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let prefix = format!("{root}::");
    for line in source.library_lines() {
        for (at, _) in line.code.match_indices(&prefix) {
            if line.code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
                continue;
            }
            let rest = &line.code[at + prefix.len()..];
            for name in first_names(rest) {
                found.push((line.number, name));
            }
        }
    }
    found
}

fn first_names(rest: &str) -> Vec<String> {
    let name = |text: &str| {
        text.trim_start()
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect::<String>()
    };
    let Some(group) = rest.strip_prefix('{') else {
        return vec![name(rest)];
    };
    let mut depth = 0;
    let mut names = vec![name(group)];
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(name(&group[at + 1..])),
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// The rows of `core/src/lib.rs`: a module imports the rows above its own, and in its row what stands to the left.
const ROWS: [&[&str]; 6] = [
    &["tagptr", "steps", "os", "sync"],
    &[
        "stack", "switch", "fiber", "trail", "trace", "g", "waiter", "runq", "timer", "retake",
    ],
    &["p", "polldesc", "metrics", "m"],
    &["sched"],
    &["sema", "netpoll", "join", "sleep", "blocking"],
    &["fdmutex", "fd"],
];

fn core_module(source: &Source) -> Option<&str> {
    let path = source.path.strip_prefix("core/src/")?.strip_suffix(".rs")?;
    (path != "lib").then(|| path.split('/').next().unwrap())
}

fn imports_go_up(source: &Source) -> Vec<String> {
    let Some(module) = core_module(source) else {
        return Vec::new();
    };
    let place = |name: &str| {
        ROWS.iter()
            .flat_map(|row| row.iter())
            .position(|module| *module == name)
    };
    let Some(own) = place(module) else {
        return vec![format!("module {module} stands in no row")];
    };
    let wrong = |name: &str| name != module && place(name).is_none_or(|place| place >= own);
    let found = imports(source, "crate")
        .into_iter()
        .filter(|(_, name)| wrong(name));
    found
        .map(|(line, name)| {
            format!("line {line}: {module} imports {name}, which is not above it or to its left")
        })
        .collect()
}

fn backends_know_the_contract_only(source: &Source) -> Vec<String> {
    if !source.path.starts_with("backends/src/") {
        return Vec::new();
    }
    let found = imports(source, "gopark_core")
        .into_iter()
        .filter(|(_, name)| !["os", "tagptr"].contains(&name.as_str()));
    found
        .map(|(line, name)| format!("line {line}: a backend names gopark_core::{name}"))
        .collect()
}

fn core_names_no_system(source: &Source) -> Vec<String> {
    if !source.path.starts_with("core/src/") {
        return Vec::new();
    }
    let names_one = |code: &str| {
        code.contains("std::") || has_word(code, "libc") || has_word(code, "target_os")
    };
    let found = source
        .library_lines()
        .into_iter()
        .filter(|line| names_one(&line.code));
    found
        .map(|line| {
            format!(
                "line {}: core names a system: {}",
                line.number,
                line.raw.trim()
            )
        })
        .collect()
}

fn atomics_come_from_sync(source: &Source) -> Vec<String> {
    if !source.path.starts_with("core/src/")
        || ["core/src/sync.rs", "core/src/steps.rs"].contains(&source.path.as_str())
    {
        return Vec::new();
    }
    // A futex is a word of 32 bits by contract.
    let allowed = |code: &str| {
        source.path == "core/src/os.rs" && code == "use core::sync::atomic::AtomicU32;"
    };
    let names_one = |code: &str| {
        ["core::sync", "core::cell", "spin::"]
            .iter()
            .any(|path| code.contains(path))
    };
    let found = source
        .library_lines()
        .into_iter()
        .filter(|line| names_one(&line.code) && !allowed(&line.code));
    found
        .map(|line| {
            format!(
                "line {}: atomics and cells come from crate::sync: {}",
                line.number,
                line.raw.trim()
            )
        })
        .collect()
}

const FILE_LINES_MAX: usize = 700;
const FUNCTION_LINES_MAX: usize = 70;

/// How many of `lines` hold code. Comments and blank lines make nothing longer than it should be.
fn code_lines(lines: &[Line<'_>]) -> usize {
    lines
        .iter()
        .filter(|line| !line.code.trim().is_empty())
        .count()
}

fn files_are_short(source: &Source) -> Vec<String> {
    let lines = code_lines(&source.lines());
    if lines <= FILE_LINES_MAX {
        return Vec::new();
    }
    vec![format!(
        "{lines} lines of code are more than {FILE_LINES_MAX}"
    )]
}

fn functions_are_short(source: &Source) -> Vec<String> {
    let lines = source.lines();
    let functions = lines
        .iter()
        .enumerate()
        .filter(|(_, line)| has_word(&line.code, "fn") && !line.code.contains("fn("));
    let measured = functions.map(|(i, start)| {
        (
            start.number,
            code_lines(&lines[i..i + item_len(&lines[i..])]),
        )
    });
    let found = measured.filter(|(_, len)| *len > FUNCTION_LINES_MAX);
    found
        .map(|(line, len)| {
            format!(
                "line {line}: a function of {len} lines of code, more than {FUNCTION_LINES_MAX}"
            )
        })
        .collect()
}

fn files_begin_with_their_purpose(source: &Source) -> Vec<String> {
    if source.text.starts_with("//! ") {
        Vec::new()
    } else {
        vec!["it does not begin with `//!` and what it is for".into()]
    }
}

fn nothing_is_left_to_do(source: &Source) -> Vec<String> {
    // In two pieces, for this file is a source as well.
    let markers = [["TO", "DO"], ["FIX", "ME"], ["XX", "X"]].map(|pieces| pieces.concat());
    let marked = |line: &Line<'_>| {
        markers.iter().any(|marker| has_word(line.raw, marker)) || line.code.contains("dbg!")
    };
    source
        .lines()
        .into_iter()
        .filter(marked)
        .map(|line| format!("line {}: {}", line.number, line.raw.trim()))
        .collect()
}

fn libraries_do_not_print(source: &Source) -> Vec<String> {
    let prints = |line: &Line<'_>| {
        source.is_library()
            && ["println!", "print!"]
                .iter()
                .any(|print| line.code.contains(print))
    };
    let found = source.library_lines().into_iter().filter(prints);
    found
        .map(|line| format!("line {}: {}", line.number, line.raw.trim()))
        .collect()
}

fn one_place_reads_the_environment(source: &Source) -> Vec<String> {
    if !source.is_library() || source.path == "std-shim/src/environment.rs" {
        return Vec::new();
    }
    let found = source
        .library_lines()
        .into_iter()
        .filter(|line| line.code.contains("env::") || line.code.contains("std::env;"));
    found
        .map(|line| {
            format!(
                "line {}: `environment` reads the environment: {}",
                line.number,
                line.raw.trim()
            )
        })
        .collect()
}

fn unsafe_files_say_why(source: &Source) -> Vec<String> {
    let found = source
        .lines()
        .into_iter()
        .filter(|line| !source.may_be_unsafe && has_word(&line.code, "unsafe"));
    found
        .map(|line| {
            format!(
                "line {}: without a reason at the top: {}",
                line.number,
                line.raw.trim()
            )
        })
        .collect()
}

/// Whether a file opts in to unsafe code, and says why. What it says holds for the files of its folder.
fn opts_in(text: &str) -> bool {
    let text: String = text.split_whitespace().collect();
    text.contains("#![allow(unsafe_code,reason=")
}

/// What the scheduler frees or uses again. The compiler then refuses a public function that hands out a reference to one.
const INTERNALS: [&str; 10] = [
    "G", "GRef", "PollDesc", "FdMutex", "WaitSlot", "Waiter", "StackOwner", "M", "P", "Heap",
];

fn internals_are_not_public(source: &Source) -> Vec<String> {
    let declared = |code: &str| {
        INTERNALS
            .iter()
            .any(|name| code.starts_with("pub ") && declares_type(code, name))
    };
    let found = source
        .library_lines()
        .into_iter()
        .filter(|line| source.path.starts_with("core/src/") && declared(&line.code));
    found
        .map(|line| {
            format!(
                "line {}: safe code would get at what is freed: {}",
                line.number,
                line.raw.trim()
            )
        })
        .collect()
}

fn declares_type(code: &str, name: &str) -> bool {
    let after = code
        .split_once("struct ")
        .or_else(|| code.split_once("enum "));
    after.is_some_and(|(_, rest)| {
        rest.strip_prefix(name)
            .is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric()))
    })
}

fn safe_functions_take_no_descriptor_numbers(source: &Source) -> Vec<String> {
    let takes = |code: &str| {
        code.starts_with("pub fn ")
            && ["fd: i32", "fd: RawFd", "raw: i32"]
                .iter()
                .any(|number| code.contains(number))
    };
    let found = source
        .library_lines()
        .into_iter()
        .filter(|line| source.is_library() && takes(line.code.trim_start()));
    found
        .map(|line| {
            format!(
                "line {}: the number may be a stranger's: {}",
                line.number,
                line.raw.trim()
            )
        })
        .collect()
}

fn folders_are_one_level_deep(source: &Source) -> Vec<String> {
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

type Rule = fn(&Source) -> Vec<String>;

fn check(rule: Rule) {
    let violations: Vec<_> = sources()
        .iter()
        .flat_map(|source| {
            rule(source)
                .into_iter()
                .map(|violation| format!("{}: {violation}", source.path))
        })
        .collect();
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// All sources of the repository.
fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    for package in [
        "core",
        "backends",
        "std-shim",
        "tests",
        "backends/minimal-echo",
        "backends/init",
    ] {
        for folder in ["src", "fuzz", "examples", "benches", "suites", "behaviours"] {
            collect(&format!("{package}/{folder}"), &mut found);
        }
    }
    let leave: Vec<_> = found
        .iter()
        .filter(|source| source.may_be_unsafe)
        .map(|source| source.path.replace(".rs", "/"))
        .collect();
    for source in &mut found {
        // The program without std is no member of the workspace, whose lints it would have to be excepted from.
        source.may_be_unsafe |= source.path.starts_with("backends/minimal-echo/")
            || leave.iter().any(|folder| source.path.starts_with(folder));
    }
    assert!(
        found.len() > 30,
        "only {} sources found from {}",
        found.len(),
        root().display()
    );
    found
}

fn collect(folder: &str, found: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(root().join(folder)) else {
        return;
    };
    for entry in entries {
        let entry = entry.unwrap();
        let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            collect(&path, found);
        } else if path.ends_with(".rs") {
            found.push(Source::new(
                &path,
                &fs::read_to_string(entry.path()).unwrap(),
            ));
        }
    }
}

#[test]
fn modules_of_core_import_upwards_and_leftwards_only() {
    check(imports_go_up);
}

#[test]
fn every_module_of_the_rows_exists() {
    let sources = sources();
    for module in ROWS.iter().flat_map(|row| row.iter()) {
        assert!(
            sources
                .iter()
                .any(|source| core_module(source) == Some(module)),
            "{module} is in a row but not in core/src"
        );
    }
}

/// The modules in the rows of a table in Markdown whose first column counts from 0, by row.
fn rows_of_table(text: &str) -> Vec<Vec<String>> {
    let rows = text.lines().filter_map(|line| {
        let cells: Vec<_> = line.trim_start_matches("//!").trim().split('|').collect();
        let [_, row, modules, ..] = cells[..] else {
            return None;
        };
        row.trim().parse::<usize>().ok()?;
        let mut names: Vec<_> = modules
            .split('`')
            .skip(1)
            .step_by(2)
            .map(String::from)
            .collect();
        names.sort();
        Some(names)
    });
    rows.collect()
}

#[test]
fn the_tables_of_rows_say_the_same() {
    let rows = ROWS.map(|row| {
        let mut names: Vec<_> = row.iter().map(|name| name.to_string()).collect();
        names.sort();
        names
    });
    for file in ["core/src/lib.rs", "docs/architecture.md"] {
        assert_eq!(
            rows_of_table(&fs::read_to_string(root().join(file)).unwrap()),
            rows,
            "in {file}"
        );
    }
}

/// What stands in the root of the repository, and nothing else.
const ROOT_FILES: [&str; 16] = [
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

#[test]
fn the_root_holds_the_files_that_are_listed_and_no_others() {
    let tracked = Command::new("git")
        .args(["ls-files"])
        .current_dir(root())
        .output();
    // A copy of the sources without its history has only its files to show.
    let names: BTreeSet<String> = match tracked {
        Ok(output) if output.status.success() && !output.stdout.is_empty() => {
            let text = String::from_utf8(output.stdout).unwrap();
            text.lines()
                .map(|path| path.split('/').next().unwrap().to_string())
                .collect()
        }
        _ => {
            let entries = fs::read_dir(root())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap());
            entries
                .filter(|name| name != "target" && name != ".git")
                .collect()
        }
    };
    assert_eq!(
        names.iter().map(String::as_str).collect::<Vec<_>>(),
        ROOT_FILES
    );
}

/// A planted bug of `ci/mutants.txt`.
#[derive(Default)]
struct Mutant {
    name: String,
    /// A file, and the piece of it that the bug replaces.
    changes: Vec<(String, String)>,
    /// The suite and the test that must fail.
    killer: (String, String),
}

/// The mutants that `ci/mutants.py` reads from `text`.
fn mutants(text: &str) -> Vec<Mutant> {
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

/// Whether a source that `suite` runs has the function, or the fuzz target, that `test` names.
fn killer_exists((suite, test): &(String, String), sources: &[Source], models: &[String]) -> bool {
    if suite == "fuzz" {
        return root().join(format!("fuzz/fuzz_targets/{test}.rs")).exists();
    }
    let function = format!("fn {}(", test.rsplit("::").next().unwrap());
    sources.iter().any(|source| source.text.contains(&function))
        || models.iter().any(|text| text.contains(&function))
}

#[test]
fn each_mutant_changes_what_stands_in_the_code_once_and_has_a_killer() {
    let sources = sources();
    let models = fs::read_dir(root().join("core/models"))
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
    let models: Vec<_> = models.collect();
    let mutants = mutants(&fs::read_to_string(root().join("ci/mutants.txt")).unwrap());
    assert!(
        mutants.len() >= 169,
        "only {} mutants were read",
        mutants.len()
    );
    let mut wrong = Vec::new();
    for Mutant {
        name,
        changes,
        killer,
    } in &mutants
    {
        for (file, old) in changes {
            let times = fs::read_to_string(root().join(file))
                .map_or(0, |text| text.matches(old.as_str()).count());
            if times != 1 {
                wrong.push(format!(
                    "\"{name}\": its piece of {file} occurs {times} times"
                ));
            }
        }
        if changes.is_empty() || !killer_exists(killer, &sources, &models) {
            wrong.push(format!(
                "\"{name}\": it changes nothing, or there is no test {killer:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
    assert!(!killer_exists(
        &("loom".into(), "models::no_such_test".into()),
        &sources,
        &models
    ));
}

#[test]
fn backends_import_the_contract_only() {
    check(backends_know_the_contract_only);
}

#[test]
fn core_names_neither_std_nor_libc_nor_an_operating_system() {
    check(core_names_no_system);
}

#[test]
fn atomics_and_cells_enter_core_through_sync() {
    check(atomics_come_from_sync);
}

#[test]
fn files_stay_under_seven_hundred_lines() {
    check(files_are_short);
}

#[test]
fn functions_stay_under_seventy_lines() {
    check(functions_are_short);
}

#[test]
fn every_file_begins_with_its_purpose() {
    check(files_begin_with_their_purpose);
}

#[test]
fn no_marker_of_unfinished_work_is_left() {
    check(nothing_is_left_to_do);
}

#[test]
fn libraries_print_nothing() {
    check(libraries_do_not_print);
}

#[test]
fn one_file_of_the_library_reads_the_environment() {
    check(one_place_reads_the_environment);
}

#[test]
fn every_file_with_unsafe_code_says_why_at_its_top() {
    check(unsafe_files_say_why);
}

#[test]
fn what_the_scheduler_frees_is_not_public() {
    check(internals_are_not_public);
}

#[test]
fn no_safe_function_takes_a_descriptor_by_its_number() {
    check(safe_functions_take_no_descriptor_numbers);
}

#[test]
fn folders_are_one_level_deep_and_have_no_mod_rs() {
    check(folders_are_one_level_deep);
}

/// Where cargo or a `mod` line would have to name the file.
fn is_named(source: &Source, sources: &[Source]) -> bool {
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

fn declares(line: &str, name: &str) -> bool {
    let item = line
        .trim_start()
        .trim_start_matches("pub(crate) ")
        .trim_start_matches("pub ");
    item == format!("mod {name};")
}

#[test]
fn no_file_is_an_orphan() {
    let sources = sources();
    let orphans: Vec<_> = sources
        .iter()
        .filter(|source| !is_named(source, &sources))
        .map(|source| &source.path)
        .collect();
    assert!(orphans.is_empty(), "nobody names {orphans:?}");

    let mut sources = sources;
    sources.push(Source::new("core/src/sched/nobody.rs", ""));
    sources.push(Source::new("core/fuzz/nobody.rs", ""));
    sources.push(Source::new("tests/behaviours/nobody.rs", ""));
    assert!(
        sources
            .iter()
            .rev()
            .take(3)
            .all(|orphan| !is_named(orphan, &sources))
    );
}

#[test]
fn every_rule_has_something_to_find() {
    let long_function = format!(
        "//! x\nimpl X {{\n    fn long() {{\n{}    }}\n}}\n",
        "        x();\n".repeat(69)
    );
    let samples: [(Rule, &str, &str); 21] = [
        (imports_go_up, "core/src/g.rs", "use crate::sched::Sched;"),
        (
            imports_go_up,
            "core/src/g.rs",
            "use crate::{stack, timer::{self, Timer}};",
        ),
        (
            imports_go_up,
            "core/src/sched/find.rs",
            "fn f(x: &crate::fd::Fd) {}",
        ),
        (imports_go_up, "core/src/newcomer.rs", ""),
        (
            backends_know_the_contract_only,
            "backends/src/epoll.rs",
            "use gopark_core::{os::Os, sched::Sched};",
        ),
        (core_names_no_system, "core/src/g.rs", "use std::vec::Vec;"),
        (
            core_names_no_system,
            "core/src/g.rs",
            "let fd: libc::c_int = 0;",
        ),
        (
            core_names_no_system,
            "core/src/g.rs",
            "#[cfg(target_os = \"linux\")]",
        ),
        (
            atomics_come_from_sync,
            "core/src/g.rs",
            "use core::sync::atomic::AtomicU32;",
        ),
        (
            atomics_come_from_sync,
            "core/src/os.rs",
            "use core::sync::atomic::AtomicU64;",
        ),
        (files_are_short, "core/src/g.rs", &"x();\n".repeat(701)),
        (functions_are_short, "core/src/g.rs", &long_function),
        (
            files_begin_with_their_purpose,
            "core/src/g.rs",
            "use crate::os;\n//! late",
        ),
        (
            nothing_is_left_to_do,
            "tests/src/lib.rs",
            &format!("// {}DO: more", "TO"),
        ),
        (
            one_place_reads_the_environment,
            "std-shim/src/trace.rs",
            "let path = std::env::var_os(\"GOPARK_TRACE\");",
        ),
        (libraries_do_not_print, "core/src/g.rs", "    println!();"),
        (unsafe_files_say_why, "core/src/g.rs", "    unsafe { f() }"),
        (internals_are_not_public, "core/src/g.rs", "pub struct G {"),
        (
            safe_functions_take_no_descriptor_numbers,
            "backends/src/linux/io.rs",
            "    pub fn read(fd: i32, buffer: &mut [u8]) {}",
        ),
        (folders_are_one_level_deep, "core/src/sched/mod.rs", ""),
        (
            folders_are_one_level_deep,
            "core/src/sched/find/local.rs",
            "",
        ),
    ];
    for (rule, path, text) in samples {
        assert_eq!(rule(&Source::new(path, text)).len(), 1, "in {path}: {text}");
    }
}

#[test]
fn no_rule_finds_what_is_not_there() {
    let innocent = "//! x\n#![allow(unsafe_code, reason = \"x\")]\nuse crate::{os::Os, sync};\n// std::vec, libc, println!\nlet s = \"std::libc\";\n\
                    pub struct Group;\npub(crate) struct G;\npub unsafe fn f(fd: i32) {}\nconst NOT_A_FN: u8 = b'\"';\n#[cfg(test)]\nmod tests {\n    use std::vec::Vec;\n}\n";
    let source = Source::new("core/src/g.rs", innocent);
    let rules: [Rule; 13] = [
        imports_go_up,
        backends_know_the_contract_only,
        core_names_no_system,
        atomics_come_from_sync,
        files_are_short,
        functions_are_short,
        files_begin_with_their_purpose,
        nothing_is_left_to_do,
        libraries_do_not_print,
        unsafe_files_say_why,
        internals_are_not_public,
        safe_functions_take_no_descriptor_numbers,
        folders_are_one_level_deep,
    ];
    for rule in rules {
        assert_eq!(rule(&source), [""; 0]);
    }
}
