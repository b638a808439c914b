//! Which addresses contain a host name to look up.
//!
//! Ported programs have bounds such as `A: ToSocketAddrs`, so the trait must be that of `std`. It
//! does not say whether a value needs a look-up, nor whether the value may be used on another
//! thread. Among the types for which `std` implements it, only strings and pairs of string and port
//! need a look-up, and these can be used on any thread. This module recognizes them by their type.
//! All other values resolve on the caller's thread: those of `std` already contain their addresses.
#![allow(
    unsafe_code,
    reason = "types are compared and cast without regard to lifetimes"
)]

use super::names::{self, Resolver};
use super::{IpAddr, SocketAddr};
use crate::error::with_cause;
use std::any::TypeId;
use std::io::{Error, ErrorKind, Result};
use std::marker::PhantomData;

/// A string that may contain a host name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Text<'a> {
    /// Host and port in one string: `name:80`.
    Whole(&'a str),
    /// The host, and the port as a number.
    Host(&'a str, u16),
}

impl Text<'_> {
    fn is_numeric(self) -> bool {
        match self {
            Text::Whole(text) => text.parse::<SocketAddr>().is_ok(),
            Text::Host(host, _) => host.parse::<IpAddr>().is_ok(),
        }
    }

    /// Returns the host and the port. The errors are those of `std`.
    fn parts(&self) -> Result<(&str, u16)> {
        let invalid = |text| Error::new(ErrorKind::InvalidInput, text);
        match *self {
            Text::Host(host, port) => Ok((host, port)),
            Text::Whole(text) => {
                let parts = text.rsplit_once(':');
                let (host, port) = parts.ok_or_else(|| invalid("invalid socket address"))?;
                let port = port.parse().map_err(|_| invalid("invalid port value"))?;
                Ok((host, port))
            }
        }
    }
}

/// Looks up the host name in `addrs` while the calling goroutine is parked. Returns `None` if
/// `addrs` is of another type or contains a numeric address.
///
/// # Errors
///
/// Those of the look-up, with the name before their text, as `explain` returns them.
/// [`PollError::Cancelled`](crate::PollError::Cancelled) if the caller is cancelled before it is
/// done.
pub(super) fn look_up<A>(
    addrs: &A,
    resolver: Option<&dyn Resolver>,
    explain: impl Fn(Error) -> Error,
) -> Option<Result<Vec<SocketAddr>>> {
    let text = text_of(addrs).filter(|text| !text.is_numeric())?;
    Some(text.parts().and_then(|(host, port)| {
        names::look_up(host, port, resolver).map_err(|error| {
            let error = explain(error);
            let text = format!("lookup {host}: {error}");
            with_cause(error, text)
        })
    }))
}

fn text_of<A>(addrs: &A) -> Option<Text<'_>> {
    macro_rules! first_of {
        ($($value:ident: $type:ty => $text:expr,)*) => {
            $(
                // SAFETY: the result is used only while `addrs` is borrowed, and every lifetime in
                // `A` outlives that borrow.
                if let Some($value) = unsafe { cast::<A, $type>(addrs) } {
                    return Some($text);
                }
            )*
        };
    }
    // `ToSocketAddrs` is implemented for any number of references. One more than necessary is
    // common, so these types are listed with it.
    first_of! {
        text: &'static str => Text::Whole(text),
        text: String => Text::Whole(text),
        text: &'static String => Text::Whole(text),
        text: &'static &'static str => Text::Whole(text),
        pair: (&'static str, u16) => Text::Host(pair.0, pair.1),
        pair: (String, u16) => Text::Host(&pair.0, pair.1),
        pair: &'static (&'static str, u16) => Text::Host(pair.0, pair.1),
        pair: &'static (String, u16) => Text::Host(&pair.0, pair.1),
    }
    None
}

/// Returns `value` as a `B` if `A` and `B` are the same type apart from lifetimes.
///
/// # Safety
///
/// The lifetimes in `B` are `'static`, those in `A` may be shorter. The caller uses the result, and
/// everything that it refers to, only while `value` is borrowed.
unsafe fn cast<A, B: 'static>(value: &A) -> Option<&B> {
    // SAFETY: types that differ only in lifetimes have the same layout.
    (id_of::<A>() == TypeId::of::<B>()).then(|| unsafe { &*std::ptr::from_ref(value).cast::<B>() })
}

/// Returns the [`TypeId`] of `T` with every lifetime replaced by `'static`. The compiler erases
/// lifetimes, so both types have the same `TypeId`.
fn id_of<T>() -> TypeId {
    trait Identity {
        fn id(&self) -> TypeId
        where
            Self: 'static;
    }
    impl<T> Identity for PhantomData<T> {
        fn id(&self) -> TypeId
        where
            Self: 'static,
        {
            TypeId::of::<T>()
        }
    }
    let phantom = PhantomData::<T>;
    let identity: &dyn Identity = &phantom;
    // SAFETY: only the bound `'static` changes, which `TypeId::of` requires. The method uses no
    // value of `T`.
    let identity =
        unsafe { std::mem::transmute::<&dyn Identity, &(dyn Identity + 'static)>(identity) };
    identity.id()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::identity;
    use std::net::{Ipv4Addr, SocketAddrV4, ToSocketAddrs};

    #[test]
    fn strings_are_recognized_by_type_with_any_lifetime() {
        let owned = String::from("name:80");
        let text = owned.as_str();
        for found in [
            text_of(&text),
            text_of(&&text),
            text_of(&&owned),
            text_of(&owned.clone()),
            text_of(&"name:80"),
        ] {
            assert_eq!(found, Some(Text::Whole("name:80")));
        }
        let host = &text[..4];
        let pair = (String::from("name"), 80_u16);
        for found in [
            text_of(&(host, 80_u16)),
            text_of(&&(host, 80_u16)),
            text_of(&pair),
            text_of(&&pair),
        ] {
            assert_eq!(found, Some(Text::Host("name", 80)));
        }
    }

    #[test]
    fn addresses_and_foreign_types_are_not_taken_for_strings() {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
        assert_eq!(text_of(&addr), None);
        assert_eq!(text_of(&&addr), None);
        assert_eq!(text_of(&[addr].as_slice()), None);
        assert_eq!(text_of(&(IpAddr::from(Ipv4Addr::LOCALHOST), 80_u16)), None);
        assert_eq!(text_of(&SocketAddrV4::new(Ipv4Addr::LOCALHOST, 80)), None);
        // Another type with the layout of `(&str, u16)`.
        struct Foreign<'a>(&'a str, u16);
        let foreign = Foreign("name", 80);
        assert_eq!(
            (text_of(&foreign), foreign.0, foreign.1),
            (None, "name", 80)
        );
    }

    #[test]
    fn numeric_addresses_need_no_look_up() {
        for digits in ["127.0.0.1:80", "[::1]:80"] {
            assert!(look_up(&digits, None, identity).is_none());
        }
        for digits in ["127.0.0.1", "::1"] {
            assert!(look_up(&(digits, 80_u16), None, identity).is_none());
        }
    }

    #[test]
    fn look_up_errors_are_those_of_std() {
        for text in ["name", "name:port", "name:65536", ""] {
            let error = look_up(&text, None, identity).unwrap().unwrap_err();
            let expected = text.to_socket_addrs().unwrap_err();
            assert_eq!(
                (error.kind(), error.to_string()),
                (expected.kind(), expected.to_string())
            );
        }
    }
}
