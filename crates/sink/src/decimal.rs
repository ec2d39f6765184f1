//! Decimal numbers from their text, exactly or not at all.

/// Why a text is no such number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoDecimal {
    /// It is no number.
    NoNumber,
    /// It has more digits behind the point.
    Rounded,
    /// It has more digits before it.
    TooLarge,
}

/// A number as JSON writes it, times ten to the power of `scale`, which is whole and has at most `precision` digits.
pub(crate) fn parse(text: &str, precision: u8, scale: u8) -> Result<i128, NoDecimal> {
    let (is_negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().map_err(|_| NoDecimal::NoNumber)?),
        None => (text, 0),
    };
    let (before, behind) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(before) || !is_digits(behind) {
        return Err(NoDecimal::NoNumber);
    }
    let digits = format!("{before}{behind}");
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Ok(0);
    }
    // Zeros at the end stand for themselves, however many there are.
    let significant = digits.trim_end_matches('0');
    let zeros = (digits.len() - significant.len()) as i64;
    let shift = exponent
        .checked_add(i64::from(scale) - behind.len() as i64 + zeros)
        .ok_or(if exponent < 0 { NoDecimal::Rounded } else { NoDecimal::TooLarge })?;
    let shift =
        u32::try_from(shift).map_err(|_| if shift < 0 { NoDecimal::Rounded } else { NoDecimal::TooLarge })?;
    if significant.len() as u64 + u64::from(shift) > u64::from(precision) {
        return Err(NoDecimal::TooLarge);
    }
    let value = significant.parse::<i128>().expect("at most 38 digits fit") * 10_i128.pow(shift);
    Ok(if is_negative { -value } else { value })
}

/// A number of two's complement, the highest byte first, that has at most `precision` digits.
pub(crate) fn of_bytes(bytes: &[u8], precision: u8) -> Option<i128> {
    let first = *bytes.first()?;
    let sign = if first < 0x80 { 0 } else { 0xff };
    // More bytes than needed say the sign again.
    let (more, needed) = bytes.split_at(bytes.len().saturating_sub(16));
    let mut value = [sign; 16];
    value[16 - needed.len()..].copy_from_slice(needed);
    let value = i128::from_be_bytes(value);
    let is_extended = more.iter().all(|&byte| byte == sign) && (value < 0) == (sign == 0xff);
    (is_extended && value.unsigned_abs() < 10_u128.pow(precision.into())).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::{NoDecimal, of_bytes, parse};

    #[test]
    fn a_decimal_is_exactly_its_bytes_or_none() {
        for (bytes, value) in [
            (&[0][..], Some(0)),
            (&[0xff], Some(-1)),
            (&[0x03, 0xe7], Some(999)),
            (&[0x03, 0xe8], None),
            (&[0xfc, 0x19], Some(-999)),
            (&[0xfc, 0x18], None),
            (&[], None),
            (&[0; 40], Some(0)),
            (&[0xff; 17], Some(-1)),
            (
                &[
                    0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                    0xff, 0xff,
                ],
                None,
            ),
            (&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], None),
        ] {
            assert_eq!(of_bytes(bytes, 3), value, "{bytes:?}");
        }
        let largest = 10_i128.pow(38) - 1;
        assert_eq!(of_bytes(&largest.to_be_bytes(), 38), Some(largest));
        assert_eq!(of_bytes(&(largest + 1).to_be_bytes(), 38), None);
    }

    #[test]
    fn a_decimal_is_exactly_its_text_or_none() {
        for (text, value) in [
            ("0", 0),
            ("-0.000", 0),
            ("1", 100),
            ("-1.5", -150),
            ("1.50000", 150),
            ("999.99", 99_999),
            ("1e2", 10_000),
            ("12345E-2", 12_345),
            ("0.0001e3", 10),
            ("0e999999999999", 0),
        ] {
            assert_eq!(parse(text, 5, 2), Ok(value), "{text}");
        }
        assert_eq!(parse("99999999999999999999999999999999999999", 38, 0), Ok(10_i128.pow(38) - 1));
        for (text, problem) in [
            ("1.005", NoDecimal::Rounded),
            ("1e-3", NoDecimal::Rounded),
            ("1e-9223372036854775808", NoDecimal::Rounded),
            ("1000", NoDecimal::TooLarge),
            ("1e3", NoDecimal::TooLarge),
            ("1e9223372036854775807", NoDecimal::TooLarge),
            ("1e99999999999999999999", NoDecimal::NoNumber),
            ("", NoDecimal::NoNumber),
            ("-", NoDecimal::NoNumber),
            ("1.", NoDecimal::NoNumber),
            (".5", NoDecimal::NoNumber),
            ("+1", NoDecimal::NoNumber),
            ("1_0", NoDecimal::NoNumber),
            ("NaN", NoDecimal::NoNumber),
        ] {
            assert_eq!(parse(text, 5, 2), Err(problem), "{text}");
        }
    }
}
