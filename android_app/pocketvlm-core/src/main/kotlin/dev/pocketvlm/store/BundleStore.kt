package dev.pocketvlm.store

import dev.pocketvlm.PocketVlmException
import dev.pocketvlm.PocketVlmException.BundleDamaged
import dev.pocketvlm.PocketVlmException.DownloadFailed
import dev.pocketvlm.PocketVlmException.NoSpace
import dev.pocketvlm.bundle.FileEntry
import dev.pocketvlm.bundle.MANIFEST
import dev.pocketvlm.bundle.MAX_MANIFEST
import dev.pocketvlm.bundle.Manifest
import dev.pocketvlm.bundle.checkLoadable
import dev.pocketvlm.bundle.fileSha256
import dev.pocketvlm.bundle.oneLineOf
import dev.pocketvlm.bundle.openBundle
import dev.pocketvlm.bundle.parseManifest
import dev.pocketvlm.bundle.sha256
import dev.pocketvlm.bundle.sync
import dev.pocketvlm.bundle.unpackArchive
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.currentCoroutineContext
import kotlinx.coroutines.ensureActive
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.conflate
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.flow.flowOn
import kotlinx.coroutines.withContext
import java.io.ByteArrayOutputStream
import java.io.File
import java.io.IOException
import java.io.InputStream
import java.nio.file.FileSystemException
import java.nio.file.Files
import java.nio.file.Path

private val DIGEST = Regex("[0-9a-f]{64}")

/**
 * Bundles in one directory: fetched, put together of parts, listed and deleted. A bundle's name is the SHA-256 of its
 * manifest, which says what every other byte of it is; it appears under that name when it is whole, by one rename.
 *
 * Any thread, several stores of one directory, and several processes may call at once: who wants the bundle that
 * another one is fetching waits for it.
 *
 * @param directory where they lie; made when it is needed. Nothing else should write into it
 */
public class BundleStore internal constructor(
    private val directory: File,
    private val transport: Transport,
    private val retries: Retries,
    private val freeBytes: (File) -> Long,
) {
    public constructor(directory: File, transport: Transport = HttpTransport()) :
        this(directory, transport, Retries(), File::getUsableSpace)

    private val home: Path = directory.toPath()

    /**
     * Fetches a bundle when it is collected, and says how far it is; the last element has the bundle. One that is there
     * already is not fetched again, nor is a file that another bundle of this store has. A collector that is cancelled
     * leaves what has come, and the next fetch goes on behind it.
     *
     * Progress that is not collected in time is left out, except for the last. The work is on `Dispatchers.IO`.
     *
     * @param manifestSha256 SHA-256 of the source's manifest.json, hexadecimal: known to the app, not asked of the server
     * @throws IllegalArgumentException [manifestSha256] is no SHA-256
     *
     * When collected, it throws [NoSpace] before any file is fetched; [DownloadFailed]; [BundleDamaged] where the given
     * manifest or what it describes is no bundle; [PocketVlmException.BundleTooNew].
     */
    public fun fetch(source: BundleSource, manifestSha256: String): Flow<FetchProgress> {
        val digest = digestOf(manifestSha256)
        return flow {
            val report = Report(this::emit)
            val bundle = inPlace(digest) { staging -> fetchInto(staging, source, digest, report) }
            report.end(bundle)
        }.flowOn(Dispatchers.IO).conflate()
    }

    /**
     * Puts a bundle together whose files lie in several directories, as Play's asset packs leave them: each file is in
     * one of [parts] under the name that the manifest has for it, the manifest as well. A file gets a second name where
     * the system gives one (Android does not), and is copied where not; [parts] stay as they are.
     *
     * @throws BundleDamaged a file is in none of them, or is not the one that the manifest describes
     * @throws NoSpace there is no room for copies
     */
    public suspend fun assemble(parts: List<File>, manifestSha256: String): InstalledBundle {
        val digest = digestOf(manifestSha256)
        val folders = parts.map { it.toPath() }
        return assembled(digest, folders.firstNotNullOfOrNull { manifestAt(it, digest) }) { staging, name, entry ->
            folders.any { staging.reuse(it.resolve(name), entry, name) }
        }
    }

    /**
     * The same of files that are read as streams: those of asset packs that come with the app's installation lie inside
     * its APKs, where `PartSource { name -> context.assets.open(name) }` reads them.
     *
     * @throws BundleDamaged [source] does not have a file, or not the one that the manifest describes
     * @throws NoSpace there is no room for copies
     */
    public suspend fun assemble(source: PartSource, manifestSha256: String): InstalledBundle {
        val digest = digestOf(manifestSha256)
        val text = withContext(Dispatchers.IO) { source.open(MANIFEST)?.use(::manifestOf) }
        return assembled(digest, text?.takeIf { sha256(it) == digest }) { staging, name, entry ->
            source.open(name)?.use { staging.copy(it, entry, name) } ?: false
        }
    }

    /**
     * Takes a bundle that is one `.zip` (`pocketvlm export CHECKPOINT -o NAME.zip`): a file that the user picked, or an asset of
     * the app. [zip] is read once and not closed; where the bundle with the given SHA-256 is there already, it is not read.
     * One import of a store runs at a time, on `Dispatchers.IO`; one that is cancelled ends with the next bytes that come, or
     * when [zip] is closed. One that fails or is cancelled leaves nothing.
     *
     * @param manifestSha256 which bundle it has to be; null where any will do
     * @throws IllegalArgumentException [manifestSha256] is no SHA-256
     * @throws BundleDamaged it is no such archive, damaged, hostile, or another bundle
     * @throws PocketVlmException.BundleTooNew only a newer library reads it
     * @throws NoSpace there is no room for the archive; of one that does not say how long it is, for what was read until then
     * @throws DownloadFailed [zip] cannot be read, or the store's directory not be written
     */
    public suspend fun import(zip: InputStream, manifestSha256: String? = null): InstalledBundle {
        val wanted = manifestSha256?.let(::digestOf)
        return withContext(Dispatchers.IO) {
            try {
                Files.createDirectories(home)
                locked(lockOf(IMPORT)) { wanted?.let(::wholeAt) ?: imported(zip, wanted) }
            } catch (error: IOException) {
                throw diskFailure(error, 0)
            }
        }
    }

    private suspend fun imported(zip: InputStream, wanted: String?): InstalledBundle {
        leftByImports().forEach(::deleteQuietly)
        val job = currentCoroutineContext()
        val unpacked = home.resolve(IMPORTED)
        val source = ImportSource(zip, freeBytes(directory), job::ensureActive)
        try {
            unpackArchive(source, unpacked.toFile()) { file ->
                job.ensureActive()
                sync(file)
            }
            val name = fileSha256(unpacked.resolve(MANIFEST))
            if (wanted != null && wanted != name) throw BundleDamaged("the archive is not the bundle whose SHA-256 was given")
            return inPlace(name) { it.take(unpacked) }
        } catch (error: IOException) {
            throw diskFailure(error, source.bytes)
        } finally {
            deleteQuietly(unpacked)
        }
    }

    /** Bundles that are whole and in their place, by the name of their model. Content is not hashed: opening does it. */
    public fun installed(): List<InstalledBundle> =
        childrenOf(home).mapNotNull(::installedAt).sortedWith(compareBy({ it.model }, { it.name }))

    /** Names of bundles whose fetch was not finished: a fetch goes on with them, [delete] removes what has come. */
    public fun unfinished(): List<String> =
        childrenOf(home).map { it.fileName.toString() }.filter { it.startsWith(PARTIAL) }.map { it.removePrefix(PARTIAL) }

    /**
     * Removes a bundle, and what an unfinished fetch of it has left; nothing where there is none. What a running fetch has
     * so far stays. A model that was opened from it goes on answering.
     *
     * @param name [InstalledBundle.name], or one of [unfinished]
     * @throws IllegalArgumentException it is no name that this store gives
     */
    public fun delete(name: String) {
        require(DIGEST.matches(name)) { "'${name.take(80)}' is no bundle's name in the store: take one that installed() gives" }
        if (!Files.isDirectory(home)) return
        discard(home.resolve(name))
        ifUnlocked(lockOf(name)) { discard(home.resolve("$PARTIAL$name")) }
    }

    /** The bundle; one that is not there is put together by [put] first, which nobody else does at the same time. */
    private suspend fun inPlace(digest: String, put: suspend (Staging) -> Unit): InstalledBundle {
        val staging = Staging(home, digest)
        return try {
            Files.createDirectories(home)
            locked(lockOf(digest)) {
                sweep()
                if (isWhole(home.resolve(digest))) {
                    staging.drop() // of a process that died behind its rename
                } else {
                    staging.prepare()
                    put(staging)
                    staging.install()
                }
                installedAt(home.resolve(digest)) ?: throw BundleDamaged("the bundle went away while it was installed")
            }
        } catch (error: IOException) {
            throw diskFailure(error, bytesToCome(staging))
        }
    }

    /** Removes what processes that died have left, but for parts of bundles, which fetches go on from. */
    private fun sweep() {
        childrenOf(home).filter { it.fileName.toString().startsWith(DELETED) }.forEach(::deleteQuietly)
        val left = leftByImports()
        if (left.isNotEmpty()) ifUnlocked(lockOf(IMPORT)) { left.forEach(::deleteQuietly) }
    }

    private fun leftByImports(): List<Path> = childrenOf(home).filter { it.fileName.toString().startsWith(IMPORTED) }

    /** What the disk still has to take of a bundle; 0 while nobody knows. */
    private fun bytesToCome(staging: Staging): Long {
        val text = manifestAt(staging.bundle) ?: return 0
        return bytesToCome(staging, parseManifest(text, MANIFEST))
    }

    private fun bytesToCome(staging: Staging, manifest: Manifest): Long =
        staging.missing(manifest).values.sumOf { it.bytes - minOf(it.bytes, staging.part(it).length) }

    private suspend fun assembled(
        digest: String,
        text: ByteArray?,
        put: suspend (staging: Staging, name: String, entry: FileEntry) -> Boolean,
    ): InstalledBundle = withContext(Dispatchers.IO) {
        inPlace(digest) { staging ->
            val manifest = begin(staging, text ?: throw BundleDamaged("no part has the manifest whose SHA-256 was given"))
            for ((name, entry) in staging.missing(manifest)) {
                if (!put(staging, name, entry)) throw BundleDamaged("no part has the $name that the manifest describes")
            }
        }
    }

    private suspend fun fetchInto(staging: Staging, source: BundleSource, digest: String, report: Report) {
        val download = Download(transport, source, retries)
        report.tell(FetchStep.MANIFEST, null, 0)
        val text = manifestAt(staging.bundle, digest)
            ?: download.manifest(digest) { step, _ -> report.tell(step, MANIFEST, 0) }
        val manifest = begin(staging, text)
        val others = FilesBySha(home)
        val missing = staging.missing(manifest)
        report.total = bytesOf(text, manifest)
        var whole = report.total - missing.values.sumOf { it.bytes }
        for ((name, entry) in missing) {
            val before = whole
            report.tell(FetchStep.FILES, name, before + staging.part(entry).length)
            if (others[entry.sha256].none { staging.reuse(it, entry, name) }) {
                val part = staging.part(entry)
                download.file(name, entry, part) { step, bytes ->
                    report.tell(step, name, before + if (bytes < 0) part.length else bytes)
                }
                staging.place(part, name)
            }
            others.add(entry.sha256, staging.bundle.resolve(name))
            whole += entry.bytes
        }
    }

    /** What the manifest says, once it is one that this library reads and its files have room. */
    private fun begin(staging: Staging, text: ByteArray): Manifest {
        val manifest = parseManifest(text, MANIFEST)
        checkLoadable(manifest)
        checkNames(manifest)
        staging.placeManifest(text)
        val needed = bytesToCome(staging, manifest)
        val free = freeBytes(directory)
        if (needed > free) throw NoSpace(needed, free)
        return manifest
    }

    /** A bundle that nothing has to be done for, except to remove what a process left that died behind its rename. */
    private fun wholeAt(name: String): InstalledBundle? = home.resolve(name).takeIf(::isWhole)?.let(::installedAt)?.also {
        ifUnlocked(lockOf(name)) { Staging(home, name).drop() }
    }

    private fun isWhole(place: Path): Boolean {
        if (installedAt(place) == null) return false
        return try {
            openBundle(place.toFile())
            true
        } catch (_: PocketVlmException) {
            false
        }
    }

    /** The bundle of a directory that is named by its manifest's digest and has its files, with their sizes. */
    private fun installedAt(place: Path): InstalledBundle? {
        val name = place.fileName.toString()
        if (!DIGEST.matches(name)) return null
        val text = manifestAt(place, name) ?: return null
        val manifest = try {
            parseManifest(text, MANIFEST)
        } catch (_: PocketVlmException) {
            return null
        }
        if (manifest.files.any { (file, entry) -> sizeOf(place.resolve(file)) != entry.bytes }) return null
        return InstalledBundle(name, manifest.model.name, place.toFile(), bytesOf(text, manifest))
    }

    private fun lockOf(name: String) = home.resolve(".lock-$name")

    /** Of the system's codes only its words reach Java. */
    private fun diskFailure(error: IOException, needed: Long): PocketVlmException {
        val said = if (error is FileSystemException) error.reason else error.message
        if (FULL.any { said.orEmpty().contains(it) }) return NoSpace(needed, freeBytes(directory), error)
        return DownloadFailed("the store's directory cannot be read or written (${oneLineOf(error)})", retryable = false, error)
    }
}

private val FULL = listOf("No space left", "Disk quota exceeded")

/** That each name can be a file beside the others and the manifest. */
private fun checkNames(manifest: Manifest) {
    val files = manifest.files.keys + MANIFEST
    for (name in manifest.files.keys) {
        val folders = generateSequence(name) { it.substringBeforeLast('/', "") }.drop(1).takeWhile { it.isNotEmpty() }
        if (name == MANIFEST || folders.any { it in files }) {
            throw BundleDamaged("the manifest is not valid: $name stands where another file does")
        }
    }
}

private fun digestOf(manifestSha256: String): String {
    val digest = manifestSha256.lowercase()
    require(DIGEST.matches(digest)) { "manifestSha256 must be 64 hexadecimal digits" }
    return digest
}

private fun bytesOf(text: ByteArray, manifest: Manifest) = text.size + manifest.files.values.sumOf { it.bytes }

/** A manifest's text from a stream, if it is none too long to be read. */
private fun manifestOf(stream: InputStream): ByteArray? {
    val text = ByteArrayOutputStream()
    val block = ByteArray(1 shl 16)
    while (text.size() <= MAX_MANIFEST) {
        val count = stream.read(block)
        if (count < 0) return text.toByteArray()
        text.write(block, 0, count)
    }
    return null
}

/** The text of a directory's manifest, if it is the one with this digest. */
private fun manifestAt(directory: Path, digest: String): ByteArray? =
    manifestAt(directory)?.takeIf { sha256(it) == digest }

private fun manifestAt(directory: Path): ByteArray? {
    val path = directory.resolve(MANIFEST)
    val size = sizeOf(path) ?: return null
    if (size > MAX_MANIFEST) return null
    return try {
        Files.readAllBytes(path)
    } catch (_: IOException) {
        null
    }
}

/** Files of the store's bundles by what is in them, as their manifests say it; who takes one has to hash it. */
private class FilesBySha(home: Path) {
    private val files = HashMap<String, MutableList<Path>>()

    init {
        for (bundle in childrenOf(home).filter { DIGEST.matches(it.fileName.toString()) }) {
            val text = manifestAt(bundle, bundle.fileName.toString()) ?: continue
            val manifest = try {
                parseManifest(text, MANIFEST)
            } catch (_: PocketVlmException) {
                continue
            }
            for ((name, entry) in manifest.files) add(entry.sha256, bundle.resolve(name))
        }
    }

    operator fun get(sha256: String): List<Path> = files[sha256].orEmpty()

    fun add(sha256: String, path: Path) {
        files.getOrPut(sha256) { ArrayList() }.add(path)
    }
}

/** Hands progress on: what is new at once, bytes of the same file a few times a second. */
private class Report(private val emit: suspend (FetchProgress) -> Unit) {
    var total = 0L
    private var last: Pair<FetchStep, String?>? = null
    private var at = 0L

    suspend fun tell(step: FetchStep, file: String?, bytes: Long) {
        val now = System.nanoTime()
        if (last == step to file && now - at < INTERVAL_NANOS) return
        last = step to file
        at = now
        emit(FetchProgress(step, file, bytes, total))
    }

    suspend fun end(bundle: InstalledBundle) {
        emit(FetchProgress(FetchStep.INSTALLED, null, bundle.bytes, bundle.bytes, bundle))
    }

    private companion object {
        const val INTERVAL_NANOS = 50_000_000L
    }
}
