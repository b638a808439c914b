//! `select!` and `select_biased!`.
//!
//! The macros read the cases one by one, each with one step of recursion, into a list whose entries
//! have the same form, and expand the list at once. The depth of the recursion is the number of
//! cases, so that selects can be nested in the bodies of others.
//!
//! An entry is `(operation source result recv (channel) (pattern) (value) body)`. The first three
//! are variables. Each step of the recursion names them anew, so those of one case differ from
//! those of another. `channel` is evaluated before the wait, in the order of the cases. `value`, in
//! which the message of a send is evaluated, and `body` run after the wait: at that point neither a
//! temporary of a `channel` nor a borrow of it is left, so a body may assign to the channels.

/// Waits for the first of several operations that is ready, does it, and runs its body. If several
/// are ready, it takes one at random.
///
/// ```
/// use crossbeam_channel::{bounded, select};
/// use std::time::Duration;
///
/// let (numbers, from_numbers) = bounded(1);
/// let (_words, from_words) = bounded::<&str>(1);
/// select! {
///     recv(from_words) -> word => println!("{word:?}"),
///     send(numbers, 6 * 7) -> result => {
///         result.unwrap();
///         assert_eq!(from_numbers.recv(), Ok(42));
///     }
///     default(Duration::from_secs(10)) => println!("timed out"),
/// }
/// ```
///
/// | case | when it is ready | the result |
/// |---|---|---|
/// | `recv(receiver) -> result` | a message is there, or no sender is left | that of `recv` |
/// | `send(sender, message) -> result` | there is room, or no receiver is left | that of `send` |
/// | `default` | no other is ready now | |
/// | `default(duration)` | no other became ready for so long | |
///
/// - `=>` and the body follow. A case ends with a comma, which may be left out after a block and at
///   the end. The bodies have one type, that of the select. `break`, `continue`, `return` and `?`
///   work in them.
/// - The receivers and senders are evaluated in their order, when the select begins. They may be
///   references to one, or what derefs to one.
/// - `message` is evaluated when the send is selected, and otherwise not.
/// - There is at most one `default`, at any place. [`never`](crate::never()) stands for a receiver
///   that a select may not have: `recv(receiver.unwrap_or(&never()))`.
///
/// [`Select`](crate::Select) selects over a list that is made at run time.
#[macro_export]
macro_rules! select {
    () => {
        ::core::compile_error!("empty `select!` block")
    };
    ($($cases:tt)+) => {
        $crate::crossbeam_channel_internal!(@cases false [] [] $($cases)+)
    };
}

/// As [`select!`](crate::select!), but if several operations are ready, takes the first in the
/// order in which they are written.
///
/// ```
/// use crossbeam_channel::{bounded, select_biased};
///
/// let (sender, receiver) = bounded(2);
/// sender.send(1).unwrap();
/// select_biased! {
///     recv(receiver) -> message => assert_eq!(message, Ok(1)),
///     send(sender, 2) -> _ => unreachable!(),
/// }
/// ```
#[macro_export]
macro_rules! select_biased {
    () => {
        ::core::compile_error!("empty `select_biased!` block")
    };
    ($($cases:tt)+) => {
        $crate::crossbeam_channel_internal!(@cases true [] [] $($cases)+)
    };
}

/// The steps of `select!`.
///
/// `@cases biased [entries] [default] case case …` takes one case off, and `@case` adds it to the
/// entries. The forms of a case are tried in this order: an expression with a comma, a block
/// without, and an expression at the end. The first must come first, for `{ … }.method(),` begins
/// with a block.
#[doc(hidden)]
#[macro_export]
macro_rules! crossbeam_channel_internal {
    (@cases $biased:tt $entries:tt $default:tt) => {
        $crate::crossbeam_channel_internal!(@expand $biased $entries $default)
    };
    (@cases $biased:tt $entries:tt $default:tt
     $kind:ident $(($($arg:tt)*))? $(-> $result:pat)? => $body:expr, $($rest:tt)*) => {
        $crate::crossbeam_channel_internal!(@case $kind ($($($arg)*)?) ($($result)?) $body;
            $biased $entries $default $($rest)*)
    };
    (@cases $biased:tt $entries:tt $default:tt
     $kind:ident $(($($arg:tt)*))? $(-> $result:pat)? => $body:block $($rest:tt)*) => {
        $crate::crossbeam_channel_internal!(@case $kind ($($($arg)*)?) ($($result)?) $body;
            $biased $entries $default $($rest)*)
    };
    (@cases $biased:tt $entries:tt $default:tt
     $kind:ident $(($($arg:tt)*))? $(-> $result:pat)? => $body:expr) => {
        $crate::crossbeam_channel_internal!(@case $kind ($($($arg)*)?) ($($result)?) $body;
            $biased $entries $default)
    };
    (@cases $biased:tt $entries:tt $default:tt $($rest:tt)+) => {
        ::core::compile_error!(::core::concat!(
            "expected a case of select!, such as `recv(receiver) -> message => body,`, found `",
            ::core::stringify!($($rest)+), "`"
        ))
    };

    (@case recv ($receiver:expr $(,)?) ($result:pat) $body:expr;
     $biased:tt [$($entries:tt)*] $default:tt $($rest:tt)*) => {
        $crate::crossbeam_channel_internal!(@cases $biased
            [$($entries)* (op source value recv ($receiver) ($result) (value) $body)]
            $default $($rest)*)
    };
    (@case send ($sender:expr, $message:expr $(,)?) ($result:pat) $body:expr;
     $biased:tt [$($entries:tt)*] $default:tt $($rest:tt)*) => {
        $crate::crossbeam_channel_internal!(@cases $biased
            [$($entries)*
                (op source value send ($sender) ($result) (value.complete($message)) $body)]
            $default $($rest)*)
    };
    (@case default () () $body:expr;
     $biased:tt $entries:tt [] $($rest:tt)*) => {
        $crate::crossbeam_channel_internal!(@cases $biased $entries
            [($crate::internal::Limit::Now) $body] $($rest)*)
    };
    (@case default ($timeout:expr $(,)?) () $body:expr;
     $biased:tt $entries:tt [] $($rest:tt)*) => {
        $crate::crossbeam_channel_internal!(@cases $biased $entries
            [($crate::internal::within($timeout)) $body] $($rest)*)
    };
    (@case default $args:tt () $body:expr;
     $biased:tt $entries:tt [$($default:tt)+] $($rest:tt)*) => {
        ::core::compile_error!("there can be only one `default` case in a select!")
    };
    (@case $kind:ident $args:tt $result:tt $body:expr;
     $biased:tt $entries:tt $default:tt $($rest:tt)*) => {
        ::core::compile_error!(::core::concat!(
            "`", ::core::stringify!($kind), "` is not a case of select!, or its form is another: \
             recv(receiver) -> result => body, send(sender, message) -> result => body, \
             default => body, default(duration) => body"
        ))
    };

    (@expand $biased:tt $entries:tt []) => {
        $crate::crossbeam_channel_internal!(@expand $biased $entries [
            ($crate::internal::Limit::Never)
            ::core::unreachable!("a select without a limit ended without an operation")
        ])
    };
    (@expand $biased:tt
     [$(($op:ident $source:ident $value:ident $kind:ident
        ($channel:expr) ($result:pat) ($finish:expr) $body:expr))*]
     [($limit:expr) $default:expr]) => {{
        // The operations and all temporaries live in this statement only.
        #[allow(clippy::unused_unit)]
        let ($($value,)*) = match ($(&$channel,)*) {
            ($($source,)*) => {
                $(let mut $op = $crate::internal::$kind($source);)*
                let picked = $crate::internal::select(&mut [$(&mut $op),*], $biased, $limit);
                let mut _index = 0usize;
                ($({
                    let is_picked = picked == ::core::option::Option::Some(_index);
                    _index += 1;
                    if is_picked { ::core::option::Option::Some($op.finish()) } else {
                        ::core::option::Option::None
                    }
                },)*)
            }
        };
        $(if let ::core::option::Option::Some($value) = $value {
            let $result = $finish;
            $body
        } else)* {
            $default
        }
    }};
}
