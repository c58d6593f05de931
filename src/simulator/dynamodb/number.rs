//! Numbers as DynamoDB has them: up to 38 significant decimal digits, magnitudes from 1E-130 to 9.9…E+125.
//!
//! Invariant: a number is held without leading or trailing zeros, so that equal numbers have equal parts and the order of the parts
//! is the order of the numbers. Nothing is ever rounded; what does not fit is refused.

use std::cmp::Ordering;
use std::fmt;

/// LIMIT: significant digits, as documented.
const DIGITS: usize = 38;
/// LIMIT: the number's largest and smallest power of ten, as documented.
const LARGEST: i32 = 125;
const SMALLEST: i32 = -130;
/// LIMIT: the longest text that can be a number: 38 digits, and zeros out to the largest magnitude on either side.
const TEXT: usize = 300;

/// A decimal number: `0.d1d2d3… × 10^exponent`, no digits at all for zero.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Number {
    negative: bool,
    exponent: i32,
    digits: Vec<u8>,
}

/// Why a text is no number, or a result cannot be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It is not written as a number.
    Text,
    /// It has more than 38 significant digits.
    Precision,
    /// It is too large.
    Overflow,
    /// It is too close to zero.
    Underflow,
}

impl Wrong {
    /// The service's sentence.
    pub fn sentence(self, text: &str) -> String {
        match self {
            Self::Text => format!("The parameter cannot be converted to a numeric value: {text}"),
            Self::Precision => "Attempting to store more than 38 significant digits in a Number".to_owned(),
            Self::Overflow => {
                "Number overflow. Attempting to store a number with magnitude larger than supported range".to_owned()
            }
            Self::Underflow => {
                "Number underflow. Attempting to store a number with magnitude smaller than supported range".to_owned()
            }
        }
    }
}

impl Number {
    /// Reads `-12.50`, `1e-7` and the like.
    ///
    /// # Errors
    /// The text is no number, or one that DynamoDB cannot hold.
    pub fn parse(text: &str) -> Result<Self, Wrong> {
        if text.len() > TEXT {
            return Err(Wrong::Text);
        }
        let (negative, rest) = match text.as_bytes() {
            [b'-', ..] => (true, &text[1..]),
            [b'+', ..] => (false, &text[1..]),
            _ => (false, text),
        };
        let (mantissa, power) = match rest.find(['e', 'E']) {
            Some(at) => {
                let power = &rest[at + 1..];
                let plain = power.strip_prefix(['-', '+']).unwrap_or(power);
                if plain.is_empty() || !plain.bytes().all(|b| b.is_ascii_digit()) {
                    return Err(Wrong::Text);
                }
                // More than four digits are out of range whatever the mantissa is; saturation keeps their direction.
                let far = if power.starts_with('-') { -100_000 } else { 100_000 };
                (&rest[..at], power.parse::<i32>().unwrap_or(far).clamp(-100_000, 100_000))
            }
            None => (rest, 0),
        };
        let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        if whole.len() + part.len() == 0 || !whole.bytes().chain(part.bytes()).all(|b| b.is_ascii_digit()) {
            return Err(Wrong::Text);
        }
        let digits: Vec<u8> = whole.bytes().chain(part.bytes()).map(|b| b - b'0').collect();
        let exponent = i32::try_from(whole.len()).map_err(|_| Wrong::Text)? + power;
        Self::new(negative, digits, exponent)
    }

    /// The number `0.digits × 10^exponent`.
    fn new(negative: bool, mut digits: Vec<u8>, mut exponent: i32) -> Result<Self, Wrong> {
        let leading = digits.iter().take_while(|d| **d == 0).count();
        digits.drain(..leading);
        exponent -= i32::try_from(leading).map_err(|_| Wrong::Text)?;
        while digits.last() == Some(&0) {
            digits.pop();
        }
        if digits.is_empty() {
            return Ok(Self { negative: false, exponent: 0, digits });
        }
        if exponent - 1 > LARGEST {
            return Err(Wrong::Overflow);
        }
        if exponent - 1 < SMALLEST {
            return Err(Wrong::Underflow);
        }
        if digits.len() > DIGITS {
            return Err(Wrong::Precision);
        }
        Ok(Self { negative, exponent, digits })
    }

    /// The sum.
    ///
    /// # Errors
    /// The exact sum does not fit.
    pub fn plus(&self, other: &Self) -> Result<Self, Wrong> {
        let lowest = |n: &Self| n.exponent - i32::try_from(n.digits.len()).expect("a number has at most 38 digits");
        if self.digits.is_empty() {
            return Ok(other.clone());
        }
        if other.digits.is_empty() {
            return Ok(self.clone());
        }
        let low = lowest(self).min(lowest(other));
        let high = self.exponent.max(other.exponent) + 1;
        let (a, b) = (self.aligned(low, high), other.aligned(low, high));
        if self.negative == other.negative {
            return Self::new(self.negative, added(&a, &b), high);
        }
        match a.cmp(&b) {
            Ordering::Equal => Self::new(false, Vec::new(), 0),
            Ordering::Greater => Self::new(self.negative, subtracted(&a, &b), high),
            Ordering::Less => Self::new(other.negative, subtracted(&b, &a), high),
        }
    }

    /// The number with its sign turned.
    pub fn negated(&self) -> Self {
        Self { negative: !self.negative && !self.digits.is_empty(), ..self.clone() }
    }

    /// The digits of the places from `10^(high-1)` down to `10^low`.
    fn aligned(&self, low: i32, high: i32) -> Vec<u8> {
        let before = usize::try_from(high - self.exponent).expect("high is above every digit");
        let width = usize::try_from(high - low).expect("high is above low");
        let mut places = vec![0; before];
        places.extend_from_slice(&self.digits);
        places.resize(width, 0);
        places
    }

    /// What the number takes of an item's 400 KB: a byte for two digits, and one more.
    pub fn size(&self) -> usize {
        self.digits.len().div_ceil(2) + 1 + usize::from(self.negative)
    }

    /// The number as whole seconds, or nothing if it is not a whole number that fits.
    pub fn whole(&self) -> Option<i64> {
        self.to_string().parse().ok()
    }
}

fn added(a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut sum = vec![0; a.len()];
    let mut carry = 0;
    for at in (0..a.len()).rev() {
        let digit = a[at] + b[at] + carry;
        (sum[at], carry) = (digit % 10, digit / 10);
    }
    sum
}

fn subtracted(a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut rest = vec![0; a.len()];
    let mut borrow = 0;
    for at in (0..a.len()).rev() {
        let taken = b[at] + borrow;
        (rest[at], borrow) = if a[at] >= taken { (a[at] - taken, 0) } else { (a[at] + 10 - taken, 1) };
    }
    rest
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        let sign = |n: &Self| {
            if n.digits.is_empty() {
                0
            } else if n.negative {
                -1
            } else {
                1
            }
        };
        sign(self).cmp(&sign(other)).then_with(|| {
            let magnitude = self.exponent.cmp(&other.exponent).then_with(|| self.digits.cmp(&other.digits));
            if self.negative { magnitude.reverse() } else { magnitude }
        })
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Number {
    /// Plain digits where that is readable, else with a power of ten.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.digits.is_empty() {
            return f.write_str("0");
        }
        if self.negative {
            f.write_str("-")?;
        }
        let text: String = self.digits.iter().map(|d| char::from(b'0' + d)).collect();
        let count = i32::try_from(text.len()).expect("a number has at most 38 digits");
        match self.exponent {
            e if !(-20..=40).contains(&e) => {
                let (first, rest) = text.split_at(1);
                let point = if rest.is_empty() { "" } else { "." };
                write!(f, "{first}{point}{rest}E{:+}", e - 1)
            }
            e if e <= 0 => write!(f, "0.{}{text}", "0".repeat(e.unsigned_abs() as usize)),
            e if e >= count => write!(f, "{text}{}", "0".repeat((e - count).unsigned_abs() as usize)),
            e => {
                let (whole, part) = text.split_at(e.unsigned_abs() as usize);
                write!(f, "{whole}.{part}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n(text: &str) -> Number {
        Number::parse(text).unwrap()
    }

    #[test]
    fn the_same_number_is_equal_however_it_is_written() {
        for same in [["1.0", "1"], ["-0", "0"], ["00100", "1E+2"], [".5", "5e-1"], ["1.50E3", "1500"]] {
            assert_eq!(n(same[0]), n(same[1]));
        }
        assert_eq!(n("00100.2500").to_string(), "100.25");
        assert_eq!(n("-1e-3").to_string(), "-0.001");
    }

    #[test]
    fn numbers_are_ordered_as_numbers_and_not_as_text() {
        let ordered = ["-9e125", "-10", "-9", "-0.5", "0", "1e-130", "0.09", "0.1", "9", "10", "10.5", "9e125"];
        for pair in ordered.windows(2) {
            assert!(n(pair[0]) < n(pair[1]), "{pair:?}");
        }
    }

    #[test]
    fn thirty_eight_digits_are_kept_and_one_more_is_refused() {
        let longest = "12345678901234567890123456789012345678";
        assert_eq!(n(longest).to_string(), longest);
        assert_eq!(Number::parse("123456789012345678901234567890123456789"), Err(Wrong::Precision));
        assert_eq!(n(&format!("0.{longest}")).to_string(), format!("0.{longest}"));
        assert_eq!(n(&format!("{longest}00")).digits.len(), 38);
    }

    #[test]
    fn magnitudes_end_where_they_are_documented_to_end() {
        assert!(Number::parse("9.9999999999999999999999999999999999999E+125").is_ok());
        assert_eq!(Number::parse("1E+126"), Err(Wrong::Overflow));
        assert!(Number::parse("-1E-130").is_ok());
        assert_eq!(Number::parse("1E-131"), Err(Wrong::Underflow));
        assert_eq!(Number::parse("1E99999999999"), Err(Wrong::Overflow));
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in ["", "-", ".", "e5", "1e", "1e+", "1.2.3", "0x10", " 1", "NaN", "١"] {
            assert_eq!(Number::parse(text), Err(Wrong::Text), "{text}");
        }
    }

    #[test]
    fn sums_are_exact() {
        assert_eq!(n("0.1").plus(&n("0.2")).unwrap(), n("0.3"));
        assert_eq!(n("5").plus(&n("-7.25")).unwrap(), n("-2.25"));
        assert_eq!(n("999").plus(&n("1")).unwrap(), n("1000"));
        assert_eq!(n("3").plus(&n("3").negated()).unwrap(), n("0"));
        assert_eq!(n("1E+100").plus(&n("1")), Err(Wrong::Precision));
        assert_eq!(n("9E+125").plus(&n("1E+125")), Err(Wrong::Overflow));
    }
}
