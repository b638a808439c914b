//! The style of the repository, as far as a program can check it: which module imports which, how
//! long and how wide things are, where `unsafe` and atomics may occur, and which words are used.
//!
//! Each rule is a function from a source to its violations, and has a sample that breaks it: a rule
//! that cannot fail proves nothing. Not under sanitizers, which have nothing to find in safe code
//! without threads.
#![cfg(not(any(gopark_sanitize = "thread", gopark_sanitize = "address")))]

#[path = "style/mutants.rs"]
mod mutants;
#[path = "style/names.rs"]
mod names;
#[path = "style/prose.rs"]
mod prose;
#[path = "style/rows.rs"]
mod rows;
#[path = "style/rules.rs"]
mod rules;
#[path = "style/source.rs"]
mod source;
#[path = "style/tree.rs"]
mod tree;
#[path = "style/words.rs"]
mod words;

use mutants::{Mutant, killer_exists, mutants, named_tests};
use names::homonyms;
use prose::{lines_are_narrow, paths_exist};
use rows::{ROWS, SCHED_ROWS, STD_SHIM_ROWS, TABLES, imports_go_up, rows_of_table};
use rules::{
    atomics_come_from_sync, backends_know_the_contract_only, core_names_no_system, files_are_short,
    files_begin_with_their_purpose, functions_are_short, internals_are_not_public,
    libraries_do_not_print, nothing_is_left_to_do, one_place_reads_the_environment,
    safe_functions_take_no_descriptor_numbers, unsafe_files_say_why,
};
use source::{Rule, Source, check, check_in, root, sources, texts};
use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use tree::{ROOT_FILES, folders_are_one_level_deep, is_named};
use words::words_are_plain;

#[test]
fn modules_import_the_rows_above_and_what_stands_to_their_left() {
    check(imports_go_up);
}

#[test]
fn every_module_of_the_rows_exists() {
    let sources = sources();
    for table in TABLES {
        for module in table.rows.iter().flat_map(|row| row.iter()) {
            assert!(
                sources
                    .iter()
                    .any(|source| table.module(source) == Some(module)),
                "{module} is in a row but not in {}",
                table.folder
            );
        }
    }
}

#[test]
fn the_tables_of_rows_say_the_same() {
    let sorted = |row: &&[&str]| {
        let mut names = Vec::from_iter(row.iter().map(|name| name.to_string()));
        names.sort();
        names
    };
    let core = Vec::from_iter(ROWS.iter().map(sorted));
    let sched = Vec::from_iter(SCHED_ROWS.iter().map(sorted));
    let std_shim = Vec::from_iter(STD_SHIM_ROWS.iter().map(sorted));
    for (file, rows) in [
        ("core/src/lib.rs", &core),
        ("docs/architecture.md", &core),
        ("core/src/sched.rs", &sched),
        ("std-shim/src/lib.rs", &std_shim),
    ] {
        let text = fs::read_to_string(root().join(file)).unwrap();
        assert_eq!(&rows_of_table(&text), rows, "in {file}");
    }
}

#[test]
fn the_root_holds_the_files_that_are_listed_and_no_others() {
    let tracked = Command::new("git")
        .args(["ls-files"])
        .current_dir(root())
        .output();
    // Without git's history, everything but build output counts.
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

#[test]
fn each_mutant_changes_what_stands_in_the_code_once_and_has_a_killer() {
    let sources = sources();
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
        if changes.is_empty() || !killer_exists(killer, sources) {
            wrong.push(format!(
                "\"{name}\": it changes nothing, or there is no test {killer:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
    assert!(!killer_exists(
        &("loom".into(), "models::no_such_test".into()),
        sources
    ));
}

#[test]
fn scripts_name_tests_that_exist() {
    let functions: Vec<_> = sources()
        .iter()
        .flat_map(|source| source.text.lines())
        .filter_map(|line| line.trim_start().strip_prefix("fn "))
        .collect();
    let exists = |name: &str| functions.iter().any(|line| line.contains(name));
    let mut named = 0;
    for script in texts().iter().filter(|text| text.path.starts_with("ci/")) {
        for name in named_tests(&script.text) {
            assert!(exists(name), "{} names no test: {name}", script.path);
            named += 1;
        }
    }
    assert!(named > 20, "only {named} names were read");
    assert!(!exists("a_test_that_nothing_defines"));
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

#[test]
fn no_file_is_an_orphan() {
    let orphans: Vec<_> = sources()
        .iter()
        .filter(|source| !is_named(source, sources()))
        .map(|source| &source.path)
        .collect();
    assert!(orphans.is_empty(), "no file declares {orphans:?}");

    for path in [
        "core/src/sched/absent.rs",
        "core/fuzz/absent.rs",
        "core/models/absent.rs",
        "fuzz/fuzz_targets/absent.rs",
        "tests/behaviours/absent.rs",
        "tests/suites/absent.rs",
        "tests/suites/style/absent.rs",
    ] {
        assert!(!is_named(&Source::new(path, ""), sources()), "{path}");
    }
}

/// All texts: Rust, scripts, settings and prose.
fn all_texts() -> impl Iterator<Item = &'static Source> {
    sources().iter().chain(texts())
}

#[test]
fn lines_fit_into_a_hundred_columns() {
    check_in(all_texts(), lines_are_narrow);
}

#[test]
fn words_that_hide_the_actor_are_not_used() {
    check_in(all_texts(), words_are_plain);
}

#[test]
fn paths_named_in_comments_and_documentation_exist() {
    check_in(all_texts(), paths_exist);
}

#[test]
fn no_two_public_types_share_a_name() {
    let found = homonyms(sources());
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));

    let twins = [
        Source::new("core/src/g.rs", "pub struct Twin;"),
        Source::new("std-shim/src/net.rs", "pub enum Twin {"),
        Source::new("backends/src/poll.rs", "pub(crate) struct Twin;"),
        Source::new("std-shim/src/error.rs", "pub use gopark_core::g::Twin;"),
    ];
    assert_eq!(
        homonyms(&twins),
        ["Twin is declared in core/src/g.rs:1 and std-shim/src/net.rs:1"]
    );
}

/// A rule, the path of a source, and a text that breaks the rule once.
type Sample<'a> = (Rule, &'a str, &'a str);

const SAMPLES: [Sample<'_>; 21] = [
    (paths_exist, "docs/fork.md", "see core/src/absent.rs"),
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
        imports_go_up,
        "std-shim/src/runtime.rs",
        "use crate::builder::Builder;",
    ),
    (
        imports_go_up,
        "core/src/sched/idle.rs",
        "use super::{Sched, run::Stopped};",
    ),
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
    (
        files_begin_with_their_purpose,
        "core/src/g.rs",
        "use crate::os;\n//! late",
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

#[test]
fn every_rule_has_something_to_find() {
    let long_file = "x();\n".repeat(701);
    let long_function = format!(
        "//! x\nimpl X {{\n    fn long() {{\n{}    }}\n}}\n",
        "        x();\n".repeat(69)
    );
    let unfinished = format!("// {}DO: more", "TO");
    let wide = format!("let s = \"{}\";", "x".repeat(90));
    let riddle = format!("/// The M {}ho waits.", "w");
    let broken_riddle = format!("/// There is no\n/// {} here.", "one");
    let made: [Sample<'_>; 6] = [
        (lines_are_narrow, "ci/loom.sh", &wide),
        (words_are_plain, "core/src/g.rs", &riddle),
        (words_are_plain, "docs/fork.md", &broken_riddle),
        (files_are_short, "core/src/g.rs", &long_file),
        (functions_are_short, "core/src/g.rs", &long_function),
        (nothing_is_left_to_do, "tests/src/lib.rs", &unfinished),
    ];
    for (rule, path, text) in SAMPLES.into_iter().chain(made) {
        assert_eq!(rule(&Source::new(path, text)).len(), 1, "in {path}: {text}");
    }
}

#[test]
fn no_rule_finds_what_is_not_there() {
    let innocent = [
        "//! x",
        "#![allow(unsafe_code, reason = \"x\")]",
        "use crate::{os::Os, sync};",
        "// std::vec, libc, println!",
        "let s = \"std::libc\";",
        "pub struct Group;",
        "pub(crate) struct G;",
        "pub unsafe fn f(fd: i32) {}",
        "// See core/src/os.rs, fuzz/corpus/NAME.hex and core/*/x.rs.",
        "// It has no. One is enough.",
        "const NOT_A_FN: u8 = b'\"';",
        "#[cfg(test)]",
        "mod tests {",
        "    use std::vec::Vec;",
        "}\n",
    ]
    .join("\n");
    let source = Source::new("core/src/g.rs", &innocent);
    let rules: [Rule; 16] = [
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
        lines_are_narrow,
        words_are_plain,
        paths_exist,
    ];
    for rule in rules {
        assert_eq!(rule(&source), [""; 0]);
    }
}
