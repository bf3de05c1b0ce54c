//! Bare puts: the very objects of a store, read into memory first, put create-only, so many at a time.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt, PutMode};
use serde_json::{Value, json};

/// Puts the objects of `source` into `bucket` at `endpoint`, under `prefix`, `at_once` at a time. `source` is a folder store, or
/// `@FILE` with a key of the same bucket on each line.
pub(crate) fn put(endpoint: &str, bucket: &str, prefix: &str, source: &str, at_once: usize) -> Result<Value> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let store = AmazonS3Builder::new()
        .with_endpoint(endpoint)
        .with_bucket_name(bucket)
        .with_region("us-east-1")
        .with_access_key_id("bench")
        .with_secret_access_key("bench")
        .with_virtual_hosted_style_request(false)
        .with_allow_http(true)
        .build()?;
    let objects = match source.strip_prefix('@') {
        Some(file) => runtime.block_on(fetched(&store, file, at_once))?,
        None => of_folder(Path::new(source))?,
    };
    if objects.is_empty() {
        bail!("{source} holds no objects");
    }
    let bytes: usize = objects.iter().map(|(_, object)| object.len()).sum();
    let count = objects.len();
    let began = Instant::now();
    runtime.block_on(async {
        let puts = objects.into_iter().map(|(key, object)| put_one(&store, format!("{prefix}/{key}"), object));
        stream::iter(puts).buffer_unordered(at_once).try_collect::<()>().await
    })?;
    Ok(json!({"seconds": began.elapsed().as_secs_f64(), "objects": count, "bytes": bytes}))
}

async fn put_one(store: &AmazonS3, key: String, object: Bytes) -> Result<()> {
    store.put_opts(&Key::parse(&key)?, object.into(), PutMode::Create.into()).await.context(key)?;
    Ok(())
}

async fn fetched(store: &AmazonS3, keys: &str, at_once: usize) -> Result<Vec<(String, Bytes)>> {
    let keys = std::fs::read_to_string(keys).with_context(|| keys.to_owned())?;
    let gets = keys.lines().map(|key| async move {
        let object = store.get(&Key::parse(key)?).await.with_context(|| key.to_owned())?;
        anyhow::Ok((key.to_owned(), object.bytes().await?))
    });
    stream::iter(gets.collect::<Vec<_>>()).buffer_unordered(at_once).try_collect().await
}

fn of_folder(root: &Path) -> Result<Vec<(String, Bytes)>> {
    let mut objects = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                let path = entry.path();
                let key = path.strip_prefix(root)?.to_str().context("a key that is not UTF-8")?.to_owned();
                objects.push((key, std::fs::read(&path)?.into()));
            }
        }
    }
    Ok(objects)
}
