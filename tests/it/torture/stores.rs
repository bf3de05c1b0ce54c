//! The stores, looked into from outside: what came in, fetched, and taken away once it is checked.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::big_s3::BigS3;

/// Where a replica puts its snapshots.
#[derive(Clone)]
pub(crate) enum Depot {
    Folder(PathBuf),
    S3(Arc<BigS3>),
    Memory(Arc<dyn ObjectStore>),
}

impl Depot {
    /// Keys of whole objects, sorted.
    pub(crate) fn keys(&self) -> Vec<String> {
        let mut keys = Vec::new();
        match self {
            Self::Folder(root) => walk(root, root, &mut keys),
            Self::S3(server) => keys = server.keys(),
            Self::Memory(store) => {
                let listed = wait(store.list(None).try_collect::<Vec<_>>()).unwrap();
                keys.extend(listed.into_iter().map(|meta| meta.location.to_string()));
            }
        }
        // A name with `#` is a file that is still being written, or whose writer was killed.
        keys.retain(|key| !key.contains('#'));
        keys.sort();
        keys
    }

    pub(crate) fn get(&self, key: &str) -> Vec<u8> {
        match self {
            Self::Folder(root) => fs::read(root.join(key)).unwrap(),
            Self::S3(server) => server.get(key).unwrap().to_vec(),
            Self::Memory(store) => {
                wait(async { store.get(&key.into()).await.unwrap().bytes().await }).unwrap().to_vec()
            }
        }
    }

    pub(crate) fn remove(&self, key: &str) {
        match self {
            Self::Folder(root) => fs::remove_file(root.join(key)).unwrap(),
            Self::S3(server) => server.remove(key),
            Self::Memory(store) => wait(store.delete(&key.into())).unwrap(),
        }
    }
}

/// Memory needs no runtime to wait for.
fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn walk(root: &Path, dir: &Path, keys: &mut Vec<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(root, &path, keys);
        } else {
            keys.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
        }
    }
}
