//! Appending to a log file, synced and not, beside plain writes of as many bytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use criterion::{BenchmarkId, Criterion, Throughput};
use esker_tests::parts::Log;
use esker_wal::LogFile;

struct PlainFile(File);

impl LogFile for PlainFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

/// A file grows up to this, on both sides; then another one is begun, so that a long
/// measurement does not fill the disk.
const FILE_BYTES: u64 = 256 << 20;

fn empty() -> PlainFile {
    PlainFile(tempfile::tempfile().unwrap())
}

/// A row of 128 dimensions with its key, and a batch of 1,000 of them.
pub(crate) fn append(criterion: &mut Criterion) {
    for (mode, sync) in [("os", false), ("sync", true)] {
        let mut group = criterion.benchmark_group(format!("log-{mode}"));
        group.sample_size(20);
        for len in [528_usize, 528_000] {
            // Bytes that neither a disk nor a filesystem compresses.
            let mut payload = vec![0; len];
            esker_tests::rng::Rng::new(1).fill(&mut payload);
            group.throughput(Throughput::Bytes(len as u64));
            group.bench_function(BenchmarkId::new("esker", len), |bencher| {
                let mut log = Log::new(empty());
                bencher.iter(|| {
                    if log.len() > FILE_BYTES {
                        log = Log::new(empty());
                    }
                    log.append(&payload);
                    if sync {
                        log.file().sync_data().unwrap();
                    }
                });
            });
            group.bench_function(BenchmarkId::new("reference", len), |bencher| {
                let (mut file, mut end) = (empty(), 0);
                bencher.iter(|| {
                    if end > FILE_BYTES {
                        (file, end) = (empty(), 0);
                    }
                    file.write_at(end, &payload).unwrap();
                    end += len as u64;
                    if sync {
                        file.sync_data().unwrap();
                    }
                });
            });
        }
        group.finish();
    }
}
