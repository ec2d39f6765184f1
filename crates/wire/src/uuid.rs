//! Kafka's 128-bit identifiers of topics, directories and clusters.
//!
//! Invariant: text form and bytes map onto each other one to one. It never makes up an identifier: randomness
//! is the caller's.

use std::fmt;
use std::str::FromStr;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const TEXT_LEN: usize = 22;

/// Sixteen bytes, shown as Kafka shows them: URL-safe base64 without padding.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// "No identifier" wherever the protocol has one.
    pub const ZERO: Uuid = Uuid([0; 16]);

    /// The identifier with these bits, most significant first.
    pub const fn from_u128(bits: u128) -> Uuid {
        Uuid(bits.to_be_bytes())
    }

    /// The identifier's bits.
    pub const fn to_u128(self) -> u128 {
        u128::from_be_bytes(self.0)
    }

    /// Whether this is [`Uuid::ZERO`].
    pub fn is_zero(&self) -> bool {
        self.0 == [0; 16]
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.to_u128();
        let mut text = [0; TEXT_LEN];
        for (place, digit) in text.iter_mut().enumerate().take(TEXT_LEN - 1) {
            *digit = ALPHABET[(bits >> (122 - 6 * place)) as usize & 63];
        }
        // Two bits are left for the last digit; base64 fills it up with zeros on the right.
        text[TEXT_LEN - 1] = ALPHABET[((bits & 3) << 4) as usize];
        f.pad(std::str::from_utf8(&text).expect("the alphabet is ASCII"))
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not 22 digits of URL-safe base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an identifier: 22 digits of URL-safe base64 are expected")]
pub struct UuidError;

impl FromStr for Uuid {
    type Err = UuidError;

    fn from_str(text: &str) -> Result<Uuid, UuidError> {
        if text.len() != TEXT_LEN {
            return Err(UuidError);
        }
        let mut bits: u128 = 0;
        for (place, byte) in text.bytes().enumerate() {
            let digit = ALPHABET.iter().position(|&letter| letter == byte).ok_or(UuidError)? as u128;
            if place < TEXT_LEN - 1 {
                bits = bits << 6 | digit;
            } else if digit & 15 == 0 {
                bits = bits << 2 | digit >> 4;
            } else {
                return Err(UuidError);
            }
        }
        Ok(Uuid::from_u128(bits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_kafkas_and_reads_back() {
        let id = Uuid::from_u128(0x0123_4567_89ab_cdef_0fed_cba9_8765_4321);
        assert_eq!(id.to_string(), "ASNFZ4mrze8P7cuph2VDIQ");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(Uuid::ZERO.to_string(), "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!("AAAAAAAAAAAAAAAAAAAAAB".parse::<Uuid>(), Err(UuidError));
        assert_eq!("short".parse::<Uuid>(), Err(UuidError));
    }
}
