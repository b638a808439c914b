//! Names become addresses: on a thread of the pool, since the C library blocks its thread for as long as a name server is silent.
//!
//! [`ToSocketAddrs`] is a trait of `std`, and bounds such as `A: ToSocketAddrs` stand in programs that come from there, so it must stay that one.
//! It says neither whether a look-up is needed nor whether the value may be used on another thread. What it is implemented for is known,
//! though: of the types of `std`, only text, and a pair of text and port, can need a look-up, and these may cross threads. They are told by their
//! type, and everything else is asked where it is: the other types of `std` have their addresses at hand.
#![allow(
    unsafe_code,
    reason = "types are compared and cast without regard to lifetimes"
)]

use super::{IpAddr, SocketAddr, ToSocketAddrs};
use std::any::TypeId;
use std::io::Result;
use std::marker::PhantomData;
use std::vec;

/// Text that may need a look-up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Text<'a> {
    /// `name:80`
    Whole(&'a str),
    /// `name`, and the port.
    Host(&'a str, u16),
}

impl Text<'_> {
    fn needs_no_look_up(self) -> bool {
        match self {
            Text::Whole(text) => text.parse::<SocketAddr>().is_ok(),
            Text::Host(host, _) => host.parse::<IpAddr>().is_ok(),
        }
    }

    fn look_up(self) -> Result<vec::IntoIter<SocketAddr>> {
        crate::blocking(|| match self {
            Text::Whole(text) => text.to_socket_addrs(),
            Text::Host(host, port) => (host, port).to_socket_addrs(),
        })
    }
}

/// Looks up what `addrs` names, while the calling goroutine is parked. `None` if no look-up is needed, as far as the type tells.
pub(super) fn look_up<A: ToSocketAddrs>(addrs: &A) -> Option<Result<vec::IntoIter<SocketAddr>>> {
    text_of(addrs)
        .filter(|text| !text.needs_no_look_up())
        .map(Text::look_up)
}

fn text_of<A>(addrs: &A) -> Option<Text<'_>> {
    macro_rules! first_of {
        ($($value:ident: $type:ty => $text:expr,)*) => {
            $(
                // SAFETY: `A` is that type but for lifetimes, and the value is only looked at for as long as `addrs` is borrowed: less
                // long than any lifetime in it.
                if let Some($value) = unsafe { cast::<A, $type>(addrs) } {
                    return Some($text);
                }
            )*
        };
    }
    // `str` itself is behind a reference; `ToSocketAddrs` goes through any number of those, of which one more is common.
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

/// `value` as a `B`, if `A` and `B` are one type but for lifetimes.
///
/// # Safety
///
/// `B` names lifetimes that `A` need not have: the caller uses the result and what it refers to for no longer than `value` is borrowed.
unsafe fn cast<A, B: 'static>(value: &A) -> Option<&B> {
    // SAFETY: one type but for lifetimes is one layout.
    (id_of::<A>() == TypeId::of::<B>()).then(|| unsafe { &*std::ptr::from_ref(value).cast::<B>() })
}

/// The identity of `T` with each lifetime replaced by `'static`: the compiler, which erases lifetimes, gives both one.
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
    // SAFETY: only the bound changes, which the method needs to name a `TypeId`. It uses no value of the type.
    let identity =
        unsafe { std::mem::transmute::<&dyn Identity, &(dyn Identity + 'static)>(identity) };
    identity.id()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, SocketAddrV4};

    #[test]
    fn text_is_told_by_its_type_whatever_its_lifetime() {
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
    fn what_has_its_addresses_at_hand_is_no_text() {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
        assert_eq!(text_of(&addr), None);
        assert_eq!(text_of(&&addr), None);
        assert_eq!(text_of(&[addr].as_slice()), None);
        assert_eq!(text_of(&(IpAddr::from(Ipv4Addr::LOCALHOST), 80_u16)), None);
        assert_eq!(text_of(&SocketAddrV4::new(Ipv4Addr::LOCALHOST, 80)), None);
        // The layout of a `(&str, u16)`, and another type.
        struct Foreign<'a>(&'a str, u16);
        let foreign = Foreign("name", 80);
        assert_eq!(
            (text_of(&foreign), foreign.0, foreign.1),
            (None, "name", 80)
        );
    }

    #[test]
    fn addresses_in_digits_need_no_look_up() {
        for digits in ["127.0.0.1:80", "[::1]:80"] {
            assert!(look_up(&digits).is_none());
        }
        for digits in ["127.0.0.1", "::1"] {
            assert!(look_up(&(digits, 80_u16)).is_none());
        }
    }

    #[test]
    fn what_is_wrong_with_a_text_is_said_in_the_words_of_std() {
        for text in ["name", "name:port", "name:65536", ""] {
            let error = look_up(&text).unwrap().unwrap_err();
            let expected = text.to_socket_addrs().unwrap_err();
            assert_eq!(
                (error.kind(), error.to_string()),
                (expected.kind(), expected.to_string())
            );
        }
    }
}
