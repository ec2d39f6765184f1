//! What a client pushes: OpenTelemetry's `MetricsData`, version 1, as far as metrics with one number a point go (gauges and
//! sums). The few fields that are used are read from protobuf's wire format by hand; others are skipped, as protobuf wants.
//! Nothing is copied before it is known to be wanted, and what is read never exceeds what came in.

/// Bytes that are no `MetricsData`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not OpenTelemetry metrics in protobuf")]
pub(crate) struct Malformed;

use super::{LABELS_MAX, cut};

/// One number of one metric.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Point<'a> {
    pub(crate) metric: &'a str,
    /// Name and value, those of the client itself first.
    pub(crate) attributes: Vec<(&'a str, String)>,
    pub(crate) value: f64,
    /// Whether it says by how much a sum has grown, and not what it is.
    pub(crate) is_delta: bool,
}

/// A field's content.
#[derive(Debug, Clone, Copy)]
enum Field<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Fixed32,
    Bytes(&'a [u8]),
}

impl<'a> Field<'a> {
    fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Field::Bytes(bytes) => Ok(bytes),
            _ => Err(Malformed),
        }
    }

    fn text(self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed)
    }

    fn varint(self) -> Result<u64, Malformed> {
        match self {
            Field::Varint(number) => Ok(number),
            _ => Err(Malformed),
        }
    }

    fn fixed64(self) -> Result<[u8; 8], Malformed> {
        match self {
            Field::Fixed64(bytes) => Ok(bytes),
            _ => Err(Malformed),
        }
    }
}

/// The fields of a message, in their order.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Malformed)
    }

    fn next(&mut self) -> Result<Option<(u64, Field<'a>)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let field = match tag & 7 {
            0 => Field::Varint(self.varint()?),
            1 => Field::Fixed64(self.take(8)?.try_into().map_err(|_| Malformed)?),
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                Field::Bytes(self.take(len)?)
            }
            5 => self.take(4).map(|_| Field::Fixed32)?,
            _ => return Err(Malformed),
        };
        Ok(Some((tag >> 3, field)))
    }
}

fn each<'a>(
    message: &'a [u8],
    mut see: impl FnMut(u64, Field<'a>) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let mut fields = Fields(message);
    while let Some((number, field)) = fields.next()? {
        see(number, field)?;
    }
    Ok(())
}

/// Hands on every point of a `MetricsData`.
pub(crate) fn points<'a>(data: &'a [u8], mut see: impl FnMut(Point<'a>)) -> Result<(), Malformed> {
    each(data, |number, field| if number == 1 { resource_metrics(field.bytes()?, &mut see) } else { Ok(()) })
}

fn resource_metrics<'a>(message: &'a [u8], see: &mut impl FnMut(Point<'a>)) -> Result<(), Malformed> {
    let mut resource = Vec::new();
    each(message, |number, field| match number {
        1 => {
            each(
                field.bytes()?,
                |number, field| {
                    if number == 1 { attribute(field.bytes()?, &mut resource) } else { Ok(()) }
                },
            )
        }
        _ => Ok(()),
    })?;
    each(message, |number, field| match number {
        2 => each(
            field.bytes()?,
            |number, field| {
                if number == 2 { metric(field.bytes()?, &resource, see) } else { Ok(()) }
            },
        ),
        _ => Ok(()),
    })
}

fn metric<'a>(
    message: &'a [u8],
    resource: &[(&'a str, String)],
    see: &mut impl FnMut(Point<'a>),
) -> Result<(), Malformed> {
    const DELTA: u64 = 1;
    let (mut name, mut data) = ("", None);
    each(message, |number, field| {
        match number {
            1 => name = field.text()?,
            // A gauge, or a sum.
            5 | 7 => data = Some(field.bytes()?),
            _ => {}
        }
        Ok(())
    })?;
    let Some(data) = data else { return Ok(()) };
    let mut is_delta = false;
    each(data, |number, field| {
        if number == 2 {
            is_delta = field.varint()? == DELTA;
        }
        Ok(())
    })?;
    each(data, |number, field| {
        if number == 1
            && let Some((value, own)) = point(field.bytes()?)?
        {
            let attributes = resource.iter().cloned().chain(own).collect();
            see(Point { metric: name, attributes, value, is_delta });
        }
        Ok(())
    })
}

type Measured<'a> = Option<(f64, Vec<(&'a str, String)>)>;

fn point(message: &[u8]) -> Result<Measured<'_>, Malformed> {
    let (mut value, mut attributes) = (None, Vec::new());
    each(message, |number, field| {
        match number {
            4 => value = Some(f64::from_le_bytes(field.fixed64()?)),
            6 => value = Some(i64::from_le_bytes(field.fixed64()?) as f64),
            7 => attribute(field.bytes()?, &mut attributes)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(value.map(|value| (value, attributes)))
}

/// Attributes beyond what a label can be made of are passed over: each point carries those of its client.
fn attribute<'a>(message: &'a [u8], attributes: &mut Vec<(&'a str, String)>) -> Result<(), Malformed> {
    if attributes.len() >= LABELS_MAX {
        return Ok(());
    }
    let (mut key, mut value) = ("", None);
    each(message, |number, field| {
        match number {
            1 => key = field.text()?,
            2 => {
                each(field.bytes()?, |number, field| {
                    match number {
                        1 => value = Some(cut(field.text()?).to_owned()),
                        2 => value = Some((field.varint()? != 0).to_string()),
                        3 => value = Some((field.varint()? as i64).to_string()),
                        4 => value = Some(f64::from_le_bytes(field.fixed64()?).to_string()),
                        _ => {}
                    }
                    Ok(())
                })?;
            }
            _ => {}
        }
        Ok(())
    })?;
    attributes.extend(value.map(|value| (key, value)));
    Ok(())
}

/// A `MetricsData` of one metric, for tests.
#[cfg(test)]
pub(crate) mod sample {
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        assert!(content.len() < 128);
        [&[number << 3 | 2, content.len() as u8], content].concat()
    }

    fn attribute(key: &str, value: &str) -> Vec<u8> {
        [field(1, key.as_bytes()), field(2, &field(1, value.as_bytes()))].concat()
    }

    /// A sum with one point of topic `t`; `temporality` is 1 for what it has grown by, 2 for what it is.
    pub(crate) fn sum(name: &str, value: i64, temporality: u8) -> Vec<u8> {
        let point = [&[6 << 3 | 1], &value.to_le_bytes()[..], &field(7, &attribute("topic", "t"))].concat();
        let sum = [field(1, &point), vec![2 << 3, temporality, 3 << 3, 1]].concat();
        let metric = [field(1, name.as_bytes()), field(7, &sum)].concat();
        field(1, &field(2, &field(2, &metric)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_read_with_its_attributes() {
        let data = sample::sum("a.b", -7, 1);
        let mut seen = Vec::new();
        points(&data, |point| seen.push(point)).unwrap();
        let attributes = vec![("topic", "t".to_owned())];
        assert_eq!(seen, [Point { metric: "a.b", attributes, value: -7.0, is_delta: true }]);
    }

    #[test]
    fn whatever_is_cut_or_flipped_is_refused_or_read_and_never_panics() {
        let data = sample::sum("a.b", 7, 2);
        for cut in 1..data.len() {
            assert_eq!(points(&data[..cut], |_| {}), Err(Malformed), "{cut}");
        }
        for at in 0..data.len() {
            for bit in 0..8 {
                let mut flipped = data.clone();
                flipped[at] ^= 1 << bit;
                let _ = points(&flipped, |_| {});
            }
        }
        assert_eq!(points(b"", |_| panic!("there is none")), Ok(()));
    }
}
