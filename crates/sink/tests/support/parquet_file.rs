//! What a Parquet file of the sink's holds. The same files come again and again at the points of a test: each is read once.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::rc::Rc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

pub struct ParquetFile {
    /// The words of its footer.
    pub words: BTreeMap<String, String>,
    /// Offsets and values, in the order of the file.
    pub rows: Vec<(i64, String)>,
}

impl ParquetFile {
    pub fn read(path: &Path, bytes: &Bytes) -> Rc<Self> {
        thread_local! {
            static READ: RefCell<HashMap<Bytes, Rc<ParquetFile>>> = RefCell::default();
        }
        READ.with_borrow_mut(|read| {
            let file = read.entry(bytes.clone()).or_insert_with(|| Rc::new(Self::decode(path, bytes)));
            Rc::clone(file)
        })
    }

    fn decode(path: &Path, bytes: &Bytes) -> Self {
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes.clone());
        let reader = reader.unwrap_or_else(|error| panic!("{} is damaged: {error}", path.display()));
        let words = reader.metadata().file_metadata().key_value_metadata().into_iter().flatten();
        let words = words.map(|word| (word.key.clone(), word.value.clone().unwrap_or_default())).collect();
        let mut rows = Vec::new();
        for batch in reader.build().unwrap() {
            let batch = batch.unwrap();
            let offsets = batch.column_by_name("kafka_offset").unwrap().as_primitive::<Int64Type>();
            let values = batch.column_by_name("value").unwrap().as_string::<i32>();
            let of_batch = offsets.values().iter().zip(values.iter());
            rows.extend(of_batch.map(|(offset, value)| (*offset, value.unwrap().to_owned())));
        }
        Self { words, rows }
    }
}
