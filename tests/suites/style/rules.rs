//! The rules that check one Rust file at a time.

use crate::rows::imports;
use crate::source::{Line, Source, has_word, item_len};

pub(crate) fn backends_know_the_contract_only(source: &Source) -> Vec<String> {
    if !source.path.starts_with("backends/src/") {
        return Vec::new();
    }
    let found = imports(source, "gopark_core")
        .into_iter()
        .filter(|(_, name)| !["os", "tagptr", "wake_sig"].contains(&name.as_str()));
    found
        .map(|(line, name)| format!("line {line}: a backend names gopark_core::{name}"))
        .collect()
}

pub(crate) fn core_names_no_system(source: &Source) -> Vec<String> {
    // `io_error` is compiled with the feature `std` only.
    if !source.path.starts_with("core/src/") || source.path == "core/src/io_error.rs" {
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

pub(crate) fn atomics_come_from_sync(source: &Source) -> Vec<String> {
    if !source.path.starts_with("core/src/")
        || ["core/src/sync.rs", "core/src/steps.rs"].contains(&source.path.as_str())
    {
        return Vec::new();
    }
    // The contract of a futex demands a word of 32 bits.
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

pub(crate) const FILE_LINES_MAX: usize = 700;
pub(crate) const FUNCTION_LINES_MAX: usize = 70;

/// How many of `lines` hold code. Comments and blank lines do not count.
pub(crate) fn code_lines(lines: &[Line<'_>]) -> usize {
    lines
        .iter()
        .filter(|line| !line.code.trim().is_empty())
        .count()
}

pub(crate) fn files_are_short(source: &Source) -> Vec<String> {
    let lines = code_lines(&source.lines());
    if lines <= FILE_LINES_MAX {
        return Vec::new();
    }
    vec![format!(
        "{lines} lines of code are more than {FILE_LINES_MAX}"
    )]
}

pub(crate) fn functions_are_short(source: &Source) -> Vec<String> {
    let lines = source.lines();
    let functions = lines
        .iter()
        .enumerate()
        .filter(|(_, line)| has_word(&line.code, "fn") && !line.code.contains("fn("))
        // The pattern of a macro.
        .filter(|(_, line)| !line.code.contains("fn $("));
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

pub(crate) fn files_begin_with_their_purpose(source: &Source) -> Vec<String> {
    if source.text.starts_with("//! ") {
        Vec::new()
    } else {
        vec!["it does not begin with `//!` and what it is for".into()]
    }
}

pub(crate) fn nothing_is_left_to_do(source: &Source) -> Vec<String> {
    // In two pieces, because the rule reads this file as well.
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

pub(crate) fn libraries_do_not_print(source: &Source) -> Vec<String> {
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

pub(crate) fn one_place_reads_the_environment(source: &Source) -> Vec<String> {
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

pub(crate) fn unsafe_files_say_why(source: &Source) -> Vec<String> {
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
/// Types whose values the scheduler frees or uses again. As they are not public, the compiler
/// refuses a public function that hands out a reference to one.
pub(crate) const INTERNALS: [&str; 10] = [
    "G",
    "GRef",
    "PollDesc",
    "FdMutex",
    "WaitSlot",
    "Waiter",
    "StackOwner",
    "M",
    "P",
    "Heap",
];

pub(crate) fn internals_are_not_public(source: &Source) -> Vec<String> {
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

pub(crate) fn declares_type(code: &str, name: &str) -> bool {
    let after = code
        .split_once("struct ")
        .or_else(|| code.split_once("enum "));
    after.is_some_and(|(_, rest)| {
        rest.strip_prefix(name)
            .is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric()))
    })
}

pub(crate) fn safe_functions_take_no_descriptor_numbers(source: &Source) -> Vec<String> {
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
