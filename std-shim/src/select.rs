//! `select!`, and [`Select`] for a list of cases that is made at run time.

mod arms;
mod dynamic;

// `extras` names the types, which its selects keep, and asks what is ready.
#[doc(hidden)]
pub use crate::global::Global;
#[doc(hidden)]
pub use crate::net::{acceptable, readable, writable};
#[doc(hidden)]
pub use arms::{
    AtArm, Limit, at, cancelled, join, pick, recv, recv_is_ready, send, send_is_ready, within,
};
pub use dynamic::Select;
#[doc(hidden)]
pub use gopark_core::chan::{RecvArm, SendArm};
#[doc(hidden)]
pub use gopark_core::select::Case;

/// Waits for the first of several events and runs its arm. Go's `select`, with the syntax of the
/// crate crossbeam-channel.
///
/// ```
/// use gopark::{chan, select};
/// use std::time::Duration;
///
/// gopark::run(|| {
///     let (numbers, from_numbers) = chan::bounded(0);
///     let (quit, from_quit) = chan::bounded::<()>(0);
///     gopark::go(move || {
///         for i in 0..3 {
///             numbers.send(i).unwrap();
///         }
///         drop(quit); // Closes the channel: a receive returns at once.
///         gopark::sleep(Duration::from_secs(1));
///     });
///     let mut sum = 0;
///     loop {
///         select! {
///             recv(from_numbers) -> number => sum += number.unwrap(),
///             recv(from_quit) -> _ => break,
///             default(Duration::from_secs(10)) => panic!("nothing came"),
///         }
///     }
///     assert_eq!(sum, 3);
/// });
/// ```
///
/// | arm | the event | the value |
/// |---|---|---|
/// | `recv(receiver) -> result` | a value or a close | that of [`recv`][recv] |
/// | `send(sender, value) -> result` | the value is sent, or a close | that of [`send`][send] |
/// | `join(handle) -> result` | the goroutine returns; once | that of the handle's `join` |
/// | `readable(socket) -> result` | a read would not wait | `io::Result<()>` |
/// | `writable(socket) -> result` | a write would not wait | `io::Result<()>` |
/// | `acceptable(listener) -> result` | an accept would not wait | `io::Result<()>` |
/// | `at(instant)` | the clock shows this [`Instant`](std::time::Instant) | |
/// | `cancelled()` | the goroutine is [cancelled](crate::sync::Cancel) | |
/// | `default(duration)` | no other event came for so long | |
/// | `default` | no other event is there now: the select does not wait | |
///
/// [recv]: crate::chan::Receiver::recv
/// [send]: crate::chan::Sender::send
///
/// - Exactly one arm happens. The others are as if they had not been tried: no value is received
///   or lost. The value of a `send` that was not selected is dropped.
/// - If several events are there, one is selected at random, each as likely as the others. With
///   `biased;` as the first line, the first in the written order is selected.
/// - The expressions in parentheses are evaluated once, in their order, when the select begins. A
///   receiver or sender is borrowed only until the event.
/// - Arms end with a comma, which may be left out after a block. All arms have the same type, that
///   of the select. `break`, `continue`, `return` and `?` work in arms.
/// - A channel that is closed is an event, each time. To stop selecting on it, leave the loop, or
///   assign [`never`](crate::chan::never) to the receiver.
/// - The pattern after `->` must match every value: write `result => match result { … }`.
/// - The arms of sockets read, write and accept nothing: that is for the arm's expression, which
///   may have to wait if another goroutine is faster. Their result is an error if the socket is
///   closed. Deadlines of the socket do not count.
/// - The handle of `join` is a [`JoinHandle`](crate::JoinHandle), a
///   [`ScopedHandle`](crate::ScopedHandle) or a
///   [`ScopedJoinHandle`](crate::thread::ScopedJoinHandle), or refers to one. `join` happens once
///   and takes the goroutine's result, as the handle's `join()` does. Later selects do not select
///   it again, and a `join()` of the handle then panics.
/// - If the goroutine is cancelled, `cancelled()` is selected. Without that arm, the first one is
///   whose result can be an error, and it gets the error. Arms of times cannot fail, and a select
///   with `default` fails none.
/// - Up to 8 arms need no allocation.
///
/// An ordinary thread blocks, a goroutine parks. A `select!` without arms does not compile: it
/// would wait forever.
#[macro_export]
macro_rules! select {
    () => {
        ::core::compile_error!("select! without arms would wait forever")
    };
    (biased; $($arms:tt)+) => {
        $crate::__select!(@parse true [] [] [] [] $($arms)+)
    };
    ($($arms:tt)+) => {
        $crate::__select!(@parse false [] [] [] [] $($arms)+)
    };
}

/// Sorts the arms into cases and a default, with its time limit if it has one, and keeps the order
/// of what they evaluate. Each expansion names its variables anew, so the variables of one arm
/// differ from those of another.
#[doc(hidden)]
#[macro_export]
macro_rules! __select {
    // An arm that ends with a block, and one that ends with an expression.
    (@parse $biased:tt $binds:tt $cases:tt $limit:tt $default:tt
     $kind:ident $(($($arg:expr),* $(,)?))? $(-> $value:pat)? => $body:block, $($rest:tt)*) => {
        $crate::__select!(@arm $biased $binds $cases $limit $default
            [$kind ($($($arg),*)?) ($($value)?) $body] $($rest)*)
    };
    (@parse $biased:tt $binds:tt $cases:tt $limit:tt $default:tt
     $kind:ident $(($($arg:expr),* $(,)?))? $(-> $value:pat)? => $body:block $($rest:tt)*) => {
        $crate::__select!(@arm $biased $binds $cases $limit $default
            [$kind ($($($arg),*)?) ($($value)?) $body] $($rest)*)
    };
    (@parse $biased:tt $binds:tt $cases:tt $limit:tt $default:tt
     $kind:ident $(($($arg:expr),* $(,)?))? $(-> $value:pat)? => $body:expr, $($rest:tt)*) => {
        $crate::__select!(@arm $biased $binds $cases $limit $default
            [$kind ($($($arg),*)?) ($($value)?) $body] $($rest)*)
    };
    (@parse $biased:tt $binds:tt $cases:tt $limit:tt $default:tt
     $kind:ident $(($($arg:expr),* $(,)?))? $(-> $value:pat)? => $body:expr) => {
        $crate::__select!(@arm $biased $binds $cases $limit $default
            [$kind ($($($arg),*)?) ($($value)?) $body])
    };
    (@parse $biased:tt $binds:tt $cases:tt $limit:tt $default:tt) => {
        $crate::__select!(@expand $biased $binds $cases $limit $default)
    };
    (@parse $biased:tt $binds:tt $cases:tt $limit:tt $default:tt $($rest:tt)+) => {
        ::core::compile_error!(::core::concat!(
            "expected an arm of select!, such as `recv(receiver) -> value => expression,`, found `",
            ::core::stringify!($($rest)+), "`"
        ))
    };

    (@arm $biased:tt $binds:tt $cases:tt [] []
     [default () () $body:expr] $($rest:tt)*) => {
        $crate::__select!(@parse $biased $binds $cases [] [$body] $($rest)*)
    };
    (@arm $biased:tt [$($binds:tt)*] $cases:tt [] []
     [default ($after:expr) () $body:expr] $($rest:tt)*) => {
        $crate::__select!(@parse $biased
            [$($binds)* (limit ($crate::select::within($after)))]
            $cases [limit] [$body] $($rest)*)
    };
    (@arm $biased:tt $binds:tt $cases:tt $limit:tt [$first:expr]
     [default $args:tt () $body:expr] $($rest:tt)*) => {
        ::core::compile_error!("select! has two arms `default`: only one of them could happen")
    };
    (@arm $biased:tt [$($binds:tt)*] [$($cases:tt)*] $limit:tt $default:tt
     [cancelled () ($($value:pat)?) $body:expr] $($rest:tt)*) => {
        $crate::__select!(@parse $biased
            [$($binds)* (arm ($crate::select::cancelled()))]
            [$($cases)* (arm result (_) $body)] $limit $default $($rest)*)
    };
    (@arm $biased:tt [$($binds:tt)*] [$($cases:tt)*] $limit:tt $default:tt
     [at ($when:expr) ($($value:pat)?) $body:expr] $($rest:tt)*) => {
        $crate::__select!(@parse $biased
            [$($binds)* (arm ($crate::select::at($when)))]
            [$($cases)* (arm result (_) $body)] $limit $default $($rest)*)
    };
    (@arm $biased:tt [$($binds:tt)*] [$($cases:tt)*] $limit:tt $default:tt
     [$kind:ident ($source:expr $(, $arg:expr)?) ($value:pat) $body:expr] $($rest:tt)*) => {
        $crate::__select!(@parse $biased
            [$($binds)* (source (&$source)) (arm ($crate::select::$kind(source $(, $arg)?)))]
            [$($cases)* (arm result ($value) $body)] $limit $default $($rest)*)
    };
    (@arm $biased:tt $binds:tt $cases:tt $limit:tt $default:tt
     [$kind:ident $args:tt $value:tt $body:expr] $($rest:tt)*) => {
        ::core::compile_error!(::core::concat!(
            "`", ::core::stringify!($kind), "` is not an arm of select!, or its form is another: \
             recv(receiver) -> value, send(sender, value) -> result, join(handle) -> result, \
             readable(socket) -> result, writable(socket) -> result, \
             acceptable(listener) -> result, at(instant), cancelled(), default, \
             default(duration)"
        ))
    };

    (@expand $biased:tt $binds:tt
     [$(($arm:ident $result:ident ($value:pat) $body:expr))*] $limit:tt $default:tt) => {{
        // The arms and all temporaries live in this statement only.
        let ($($result,)*) = $crate::__select!(@bind $binds [$biased [$($arm)*] $limit $default]);
        $crate::__select!(@run [$(($result ($value) $body))*] $default)
    }};

    // Binds by `match`, as `let` would end the life of temporaries.
    (@bind [($name:ident ($value:expr)) $($rest:tt)*] $pick:tt) => {
        match $value { $name => $crate::__select!(@bind [$($rest)*] $pick) }
    };
    (@bind [] [$biased:tt [$($arm:ident)*] $limit:tt $default:tt]) => {{
        let limit = $crate::__select!(@limit $limit $default);
        let picked = $crate::select::pick(&[$($arm.case()),*], $biased, limit);
        let mut index = 0usize;
        let results = ($({
            let mine = picked == ::core::option::Option::Some(index);
            index += 1;
            if mine { ::core::option::Option::Some($arm.finish()) } else {
                ::core::option::Option::None
            }
        },)*);
        let _ = index;
        results
    }};

    (@limit [$limit:ident] $default:tt) => { $limit };
    (@limit [] [$default:expr]) => { $crate::select::Limit::Now };
    (@limit [] []) => { $crate::select::Limit::Never };

    (@run [($result:ident ($value:pat) $body:expr) $($rest:tt)*] $default:tt) => {
        if let ::core::option::Option::Some(value) = $result {
            let $value = value;
            $body
        } else {
            $crate::__select!(@run [$($rest)*] $default)
        }
    };
    (@run [] [$default:expr]) => { $default };
    (@run [] []) => {
        ::core::unreachable!("a select without a limit ended without an event")
    };
}
