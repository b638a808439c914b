//! Resolves the addresses of frames to the lines of a backtrace, and selects which lines are shown.
//!
//! A goroutine's stack, from its innermost frame:
//!
//! ```text
//! gopark_core::sched::park::…            how it parks                  omitted
//! gopark::goroutine::sleep               the function that it called   the first line shown
//! server::serve                          its own code                  shown
//! std::panic::catch_unwind               how it was started            omitted
//! gopark_core::join::Task<…>::run
//! ```

use super::unwind::Frames;
use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt::Write as _;
use std::io::{self, Write};

/// Resolves addresses. It caches the results, because many goroutines share few distinct addresses.
#[derive(Default)]
pub(crate) struct Symbols {
    resolved: HashMap<usize, Box<[Function]>>,
}

/// A function of a frame: the one called, or one inlined into it.
pub(super) struct Function {
    /// Its lines in the backtrace.
    pub(super) text: String,
    role: Role,
}

/// What a function contributes to a goroutine's stack. [`shown`] selects frames by it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    /// The function in which every goroutine's stack begins.
    Entry,
    /// A function of gopark between [`Entry`](Self::Entry) and the goroutine's own code.
    Start,
    /// Any other function of gopark.
    Gopark,
    /// A function of the standard library.
    Std,
    /// Any other function.
    User,
}

impl Symbols {
    /// Writes the lines of the frames that are shown.
    pub(crate) fn write(&mut self, frames: &Frames, out: &mut impl Write) -> io::Result<()> {
        let functions = self.functions(frames);
        let roles: Vec<Role> = functions.iter().map(|function| function.role).collect();
        for function in &functions[shown(&roles)] {
            out.write_all(function.text.as_bytes())?;
        }
        if frames.more {
            out.write_all(b"    ...more frames\n")
        } else {
            Ok(())
        }
    }

    /// Returns the functions of all frames, the innermost first.
    pub(super) fn functions(&mut self, frames: &Frames) -> Vec<&Function> {
        for ip in &frames.ips {
            self.resolved.entry(*ip).or_insert_with(|| resolve(*ip));
        }
        frames
            .ips
            .iter()
            .flat_map(|ip| &self.resolved[ip])
            .collect()
    }
}

/// Returns the functions at `ip`: first the inlined ones, then the function they are inlined into.
fn resolve(ip: usize) -> Box<[Function]> {
    let mut functions = Vec::new();
    // `backtrace::resolve` expects a return address, and looks up the byte before it.
    backtrace::resolve(ip.wrapping_add(1) as *mut c_void, |symbol| {
        let name = symbol.name().map(|name| format!("{name:#}"));
        functions.push(function(
            ip,
            name.as_deref(),
            symbol.filename().zip(symbol.lineno()),
        ));
    });
    if functions.is_empty() {
        functions.push(function(ip, None, None));
    }
    functions.into()
}

fn function(ip: usize, name: Option<&str>, place: Option<(&std::path::Path, u32)>) -> Function {
    let mut text = String::from("    ");
    let file = place.map(|(file, _)| file.to_string_lossy());
    let role = name.map_or(Role::User, |name| {
        role(name, file.as_deref().unwrap_or_default())
    });
    let name = name.map(without_arguments);
    let written = match (name, place) {
        (Some(name), Some((file, line))) => {
            writeln!(text, "{name}\n        {}:{line}", file.display())
        }
        (Some(name), None) => writeln!(text, "{name}"),
        (None, _) => writeln!(text, "{ip:#x}"),
    };
    written.expect("writing to a String does not fail");
    Function { text, role }
}

/// Returns a function's name without type arguments, which some compilers add. A leading
/// `<Type as Trait>` stays.
fn without_arguments(name: &str) -> String {
    let mut short = String::new();
    let (mut depth, mut before) = (0, ' ');
    // False within a leading `<Type as Trait>`.
    let mut skips = !name.starts_with('<');
    for c in name.chars() {
        depth += i32::from(c == '<');
        if depth == 0 || !skips {
            short.push(c);
        } else if c == '<' && short.ends_with("::") {
            short.truncate(short.len() - 2);
        }
        depth -= i32::from(c == '>' && before != '-');
        skips |= depth == 0;
        before = c;
    }
    short
}

/// Returns the range of functions to show, where 0 is the innermost: without those that park the
/// goroutine and those that have started it.
fn shown(roles: &[Role]) -> std::ops::Range<usize> {
    let mut end = roles
        .iter()
        .position(|role| *role == Role::Entry)
        .unwrap_or(roles.len());
    if end < roles.len() {
        while end > 0 && matches!(roles[end - 1], Role::Start | Role::Std) {
            end -= 1;
        }
    }
    let parking = roles[..end]
        .iter()
        .take_while(|role| matches!(role, Role::Gopark | Role::Std))
        .count();
    let start = roles[..parking]
        .iter()
        .rposition(|role| *role == Role::Gopark)
        .unwrap_or(0);
    start..end
}

const STD: [&str; 3] = ["core", "alloc", "std"];
const GOPARK: [&str; 4] = ["gopark", "gopark_core", "gopark_backends", "corosensei"];

/// Returns the role of a function. With debug information of lines only, names lack their paths,
/// and `file` decides.
fn role(name: &str, file: &str) -> Role {
    let path = name.trim_start_matches('<');
    // Only the closures of these functions start a goroutine. The functions themselves may park.
    let is_closure = name.contains("{{closure}}") || name.contains("{closure#");
    match defining_crate(name) {
        _ if path.starts_with("gopark_core::join::Task") => Role::Entry,
        _ if is_closure
            && [
                "gopark_core::join::detached",
                "gopark::goroutine::catching",
                "gopark::goroutine::reporting",
                "gopark::cancel::inherit",
                "gopark::group::",
                "gopark::scope::",
                "gopark::thread::scope::",
            ]
            .iter()
            .any(|start| path.starts_with(start)) =>
        {
            Role::Start
        }
        _ if path.starts_with("gopark::goroutine::__rust_begin_short_backtrace") => Role::Start,
        _ if name == "__rust_try" => Role::Std,
        Some(krate) if STD.contains(&krate) => Role::Std,
        Some(krate) if GOPARK.contains(&krate) => Role::Gopark,
        Some(_) => Role::User,
        None => role_by_file(name, file),
    }
}

fn role_by_file(name: &str, file: &str) -> Role {
    let in_std = |krate: &str| file.contains(&format!("/library/{krate}/src/"));
    let gopark = file!()
        .strip_suffix("backtraces/symbols.rs")
        .expect("the name of this file");
    let core = gopark_core::FILE
        .strip_suffix("lib.rs")
        .expect("the name of that file");
    let below = |sources: &str| file.split_once(sources).map(|(_, file)| file);
    match (below(gopark), below(core)) {
        _ if STD.iter().any(|krate| in_std(krate)) => Role::Std,
        (_, Some("join.rs")) if name.starts_with("run") => Role::Entry,
        (_, Some("join.rs")) | (Some("goroutine.rs" | "scope.rs" | "thread/scope.rs"), _)
            if name.starts_with("{closure") =>
        {
            Role::Start
        }
        (Some("goroutine.rs"), _) if name.starts_with("__rust_begin_short_backtrace") => {
            Role::Start
        }
        (Some(_), _) | (_, Some(_)) => Role::Gopark,
        // Functions in assembly have no file.
        _ if name.starts_with("gopark_core_") || file.contains("/corosensei-") => Role::Gopark,
        _ => Role::User,
    }
}

/// Returns the crate that defines a function. For `<Type as Trait>::f` that is the crate of the
/// trait, or if that is the standard library, the crate of the type.
fn defining_crate(name: &str) -> Option<&str> {
    let Some(implementation) = name.strip_prefix('<') else {
        return root(name);
    };
    let (of, as_what) = split_as(implementation);
    let trait_root = as_what.and_then(root);
    trait_root
        .filter(|krate| !STD.contains(krate))
        .or_else(|| root(of))
        .or(trait_root)
}

/// Splits `Type as Trait>::f` into `Type` and `Trait`.
fn split_as(implementation: &str) -> (&str, Option<&str>) {
    let mut depth = 0;
    for (at, c) in implementation.char_indices() {
        match c {
            '<' => depth += 1,
            '>' if implementation[..at].ends_with('-') => {}
            '>' if depth == 0 => return (&implementation[..at], None),
            '>' => depth -= 1,
            ' ' if depth == 0 && implementation[at..].starts_with(" as ") => {
                return (
                    &implementation[..at],
                    Some(&implementation[at + " as ".len()..]),
                );
            }
            _ => {}
        }
    }
    (implementation, None)
}

/// Returns the crate with which a path begins.
fn root(path: &str) -> Option<&str> {
    let mut path = path;
    while let Some(rest) = ["<", "&", "(", "[", "*const ", "*mut ", "mut ", "dyn "]
        .iter()
        .find_map(|prefix| path.strip_prefix(prefix))
    {
        path = rest;
    }
    let end = path.find(|c: char| !c.is_alphanumeric() && c != '_')?;
    path[end..].starts_with("::").then(|| &path[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_shown_without_type_arguments() {
        for (name, short) in [
            (
                "gopark::goroutine::blocking::<usize, server::main::{closure#0}>",
                "gopark::goroutine::blocking",
            ),
            (
                "core::ptr::drop_in_place<alloc::vec::Vec<u8>>",
                "core::ptr::drop_in_place",
            ),
            (
                "<alloc::vec::Vec<u8> as core::io::Write>::write_fmt::<fn() -> u8>",
                "<alloc::vec::Vec<u8> as core::io::Write>::write_fmt",
            ),
            ("server::Pool<T>::get", "server::Pool::get"),
            ("main", "main"),
        ] {
            assert_eq!(without_arguments(name), short);
        }
    }

    #[test]
    fn a_functions_role_follows_from_its_name() {
        for (name, role) in [
            (
                "gopark_core::sched::park::<impl gopark_core::sched::Sched>::park_as",
                Role::Gopark,
            ),
            (
                "<gopark::net::tcp_stream::TcpStream as std::io::Read>::read",
                Role::Gopark,
            ),
            (
                "<&gopark::net::tcp_stream::TcpStream as std::io::Write>::write",
                Role::Gopark,
            ),
            (
                "<gopark::net::tcp_stream::TcpStream as server::Framed>::frame",
                Role::User,
            ),
            ("<server::Conn as std::io::Read>::read", Role::User),
            (
                "<alloc::vec::Vec<<server::A as gopark::B>::C> as core::iter::IntoIterator>\
                 ::into_iter",
                Role::Std,
            ),
            (
                "<F as core::ops::function::FnOnce<Args>>::call_once",
                Role::Std,
            ),
            (
                "<fn() -> server::A as core::ops::function::FnOnce<()>>::call_once",
                Role::Std,
            ),
            ("std::io::default_read_exact", Role::Std),
            (
                "core::ptr::drop_in_place<gopark::net::tcp_stream::TcpStream>",
                Role::Std,
            ),
            ("__rust_try", Role::Std),
            (
                "corosensei::coroutine::Yielder<Input,Yield>::suspend",
                Role::Gopark,
            ),
            ("gopark_tests::behaviour", Role::User),
            ("server::main::{{closure}}", Role::User),
            ("main", Role::User),
            ("gopark_core::join::Task<F,R>::run", Role::Entry),
            (
                "<gopark_core::join::Task<server::main::{closure#0}, ()>>::run",
                Role::Entry,
            ),
            ("gopark_core::join::Join<R>::join", Role::Gopark),
            ("gopark_core::join::detached::{{closure}}", Role::Start),
            (
                "gopark::thread::scope::Scope::start::{{closure}}",
                Role::Start,
            ),
            ("gopark::thread::scope::scope", Role::Gopark),
            ("gopark::goroutine::catching::{{closure}}", Role::Start),
            (
                "gopark::goroutine::__rust_begin_short_backtrace::<server::main::{closure#0}, ()>",
                Role::Start,
            ),
            (
                "gopark::scope::Group::start::<(), server::main::{closure#0}>::{closure#0}",
                Role::Start,
            ),
            ("gopark::scope::run", Role::Gopark),
        ] {
            assert_eq!(super::role(name, ""), role, "{name}");
        }
    }

    #[test]
    fn the_role_of_a_name_without_a_path_follows_from_its_file() {
        let gopark = |file| format!("/home/x/{}", file!().replace("backtraces/symbols.rs", file));
        let core = |file| format!("/home/x/{}", gopark_core::FILE.replace("lib.rs", file));
        for (name, file, role) in [
            ("park_as", core("sched/park.rs"), Role::Gopark),
            (
                "run<server::main::{closure_env#0}, ()>",
                core("join.rs"),
                Role::Entry,
            ),
            ("join<()>", core("join.rs"), Role::Gopark),
            ("read", gopark("net/tcp_stream.rs"), Role::Gopark),
            (
                "{closure#0}<(), server::main::{closure_env#0}>",
                gopark("goroutine.rs"),
                Role::Start,
            ),
            (
                "__rust_begin_short_backtrace<server::main::{closure_env#0}, ()>",
                gopark("goroutine.rs"),
                Role::Start,
            ),
            (
                "run<(), server::main::{closure_env#0}>",
                gopark("goroutine.rs"),
                Role::Gopark,
            ),
            (
                "coroutine_func<()>",
                "/home/x/.cargo/registry/src/y/corosensei-0.3.4/src/coroutine.rs".into(),
                Role::Gopark,
            ),
            (
                "gopark_core_0_1_0_switch_start",
                String::new(),
                Role::Gopark,
            ),
            (
                "catch_unwind<()>",
                "/rustc/0123/library/std/src/panic.rs".into(),
                Role::Std,
            ),
            (
                "call_once<()>",
                "/rustc/0123/library/core/src/ops/function.rs".into(),
                Role::Std,
            ),
            (
                "{closure#0}",
                "/home/x/server/src/main.rs".into(),
                Role::User,
            ),
            ("main", String::new(), Role::User),
        ] {
            assert_eq!(super::role(name, &file), role, "{name} in {file}");
        }
    }

    #[test]
    fn a_backtrace_begins_with_gopark_and_ends_with_the_goroutines_code() {
        use Role::*;
        for (roles, range) in [
            (
                &[
                    Gopark, Gopark, User, User, Std, Start, Std, Entry, Std, Gopark,
                ][..],
                1..4,
            ),
            // The goroutine calls `read_exact` of a TcpStream.
            (
                &[Gopark, Std, Gopark, Gopark, Std, User, Start, Entry],
                3..6,
            ),
            // All of the goroutine's code was inlined, and the debug information does not say so.
            (&[Gopark, Gopark, Entry, Gopark], 1..2),
            // The goroutine calls gopark, which calls std, which calls a callback that parks.
            (&[Gopark, User, Std, Gopark, User, Start, Entry], 0..5),
            // A goroutine whose own code is all gopark's: `run` within a goroutine.
            (&[Gopark, Gopark, Start, Std, Entry], 1..2),
            (&[User, User, Std], 0..3),
            (&[Std, User, Std], 0..3),
            (&[Entry, Gopark], 0..0),
            (&[], 0..0),
        ] {
            assert_eq!(shown(roles), range, "{roles:?}");
        }
    }

    #[test]
    fn an_address_without_a_name_is_printed_as_it_is() {
        let mut frames = Frames::default();
        frames.ips.push(0x10).unwrap();
        frames.more = true;
        let mut text = Vec::new();
        Symbols::default().write(&frames, &mut text).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "    0x10\n    ...more frames\n"
        );
    }
}
