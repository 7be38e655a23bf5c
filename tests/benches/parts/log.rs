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

/// A file of its own that grows, as both sides write it.
fn grown() -> PlainFile {
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
                let mut log = Log::new(grown());
                bencher.iter(|| {
                    log.append(&payload);
                    if sync {
                        log.file().sync_data().unwrap();
                    }
                });
            });
            group.bench_function(BenchmarkId::new("reference", len), |bencher| {
                let file = grown();
                let mut end = 0;
                bencher.iter(|| {
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
