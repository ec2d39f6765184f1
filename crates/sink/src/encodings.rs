//! How the columns of a file are encoded and compressed.
//!
//! Parquet keeps the values of a column in a dictionary, until that is larger than a megabyte: a gain where they come again, and a hash
//! table's work for nothing where nearly each is another, as ids, times and texts are. Which it is, the first rows of a file tell.

use std::collections::HashSet;

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;

/// Compression: fast, and a half to a third of the size.
const ZSTD_LEVEL: i32 = 1;
/// What is compressed at once of a column, about: it stays in the processor's cache from its encoding until then.
const PAGE_BYTES: usize = 256 << 10;
/// Fewer values than these tell nothing.
const VALUES_MIN: usize = 100;

/// The settings for a file that begins with these rows.
pub(crate) fn properties(first: &RecordBatch) -> WriterProperties {
    let level = ZstdLevel::try_new(ZSTD_LEVEL).expect("it is a level");
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_data_page_size_limit(PAGE_BYTES);
    for (field, column) in first.schema().fields().iter().zip(first.columns()) {
        if is_varied(column) {
            let path = ColumnPath::new(vec![field.name().clone()]);
            properties = properties.set_column_dictionary_enabled(path, false);
        }
    }
    properties.build()
}

/// Whether hardly a value of a column comes twice. What is nested is not looked at.
fn is_varied(column: &dyn Array) -> bool {
    let mut seen = HashSet::new();
    match column.data_type() {
        DataType::Utf8 => {
            seen.extend(column.as_string::<i32>().iter().flatten().map(|text| text.as_bytes().to_vec()))
        }
        DataType::Binary => seen.extend(column.as_binary::<i32>().iter().flatten().map(<[u8]>::to_vec)),
        other => {
            let Some(width) = other.primitive_width() else { return false };
            let data = column.to_data();
            let bytes = &data.buffers()[0][data.offset() * width..][..data.len() * width];
            let values = bytes.chunks_exact(width).enumerate();
            seen.extend(values.filter(|(row, _)| column.is_valid(*row)).map(|(_, value)| value.to_vec()));
        }
    }
    let values = column.len() - column.null_count();
    values >= VALUES_MIN && seen.len() >= values / 8 * 7
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, BinaryArray, BooleanArray, Int64Array, StringArray};

    use super::is_varied;

    #[test]
    fn a_column_is_looked_at_by_its_values() {
        let looked_at = |array: ArrayRef| is_varied(&*array);
        let numbers =
            |of: fn(i64) -> Option<i64>| -> ArrayRef { Arc::new((0..200).map(of).collect::<Int64Array>()) };
        assert!(looked_at(numbers(Some)));
        assert!(!looked_at(numbers(|number| Some(number % 150))));
        // Of what is not there, nothing is said.
        assert!(looked_at(numbers(|number| (number >= 50).then_some(number))));
        assert!(!looked_at(numbers(|_| None)));
        assert!(looked_at(numbers(Some).slice(20, 100)));
        assert!(!looked_at(numbers(Some).slice(0, 99)));
        let texts = (0..200).map(|number| Some(format!("text {number}")));
        assert!(looked_at(Arc::new(texts.clone().collect::<StringArray>())));
        assert!(looked_at(Arc::new(
            texts.clone().chain([Some("text 7".to_owned())]).collect::<StringArray>()
        )));
        assert!(!looked_at(Arc::new(texts.clone().chain(texts).collect::<StringArray>())));
        let bytes = (0..200_u32).map(|number| Some(number.to_be_bytes()));
        assert!(looked_at(Arc::new(bytes.collect::<BinaryArray>())));
        assert!(!looked_at(Arc::new(BooleanArray::from(vec![true; 200]))));
    }
}
