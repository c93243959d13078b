package dev.pocketvlm.store

import dev.pocketvlm.PocketVlmException
import dev.pocketvlm.bundle.FileEntry
import dev.pocketvlm.bundle.MANIFEST
import dev.pocketvlm.bundle.Manifest
import dev.pocketvlm.bundle.fileSha256
import dev.pocketvlm.bundle.openBundle
import dev.pocketvlm.bundle.sync
import kotlinx.coroutines.currentCoroutineContext
import kotlinx.coroutines.ensureActive
import java.io.InputStream
import java.io.OutputStream
import java.nio.file.Files
import java.nio.file.LinkOption.NOFOLLOW_LINKS
import java.nio.file.Path
import java.nio.file.StandardCopyOption.ATOMIC_MOVE
import java.nio.file.StandardOpenOption.APPEND
import java.nio.file.StandardOpenOption.CREATE
import java.nio.file.StandardOpenOption.WRITE

internal const val PARTIAL: String = ".partial-"
private const val COPIED = 1 shl 16

/**
 * A bundle on its way: `bundle/` has its whole files under their names, `parts/` what is there of the others. Who uses
 * it has the bundle's lock.
 *
 * @param home the store's directory
 * @param digest SHA-256 of the manifest, which is the bundle's name
 */
internal class Staging(private val home: Path, private val digest: String) {
    private val root = home.resolve("$PARTIAL$digest")
    private val parts = root.resolve("parts")

    /** Where the files are put together. */
    val bundle: Path = root.resolve("bundle")

    fun prepare() {
        Files.createDirectories(bundle)
        Files.createDirectories(parts)
    }

    /** What is there of a file with this content. */
    fun part(entry: FileEntry): Part = Part(parts.resolve("${entry.sha256}.part"), parts.resolve("${entry.sha256}.tag"))

    /** Files that are not in their place yet. */
    fun missing(manifest: Manifest): Map<String, FileEntry> =
        manifest.files.filter { (name, entry) -> sizeOf(bundle.resolve(name)) != entry.bytes }

    /** Gives a part, whose content was checked, its name. */
    fun place(part: Part, name: String) {
        sync(part.file)
        val place = bundle.resolve(name)
        Files.createDirectories(place.parent)
        Files.move(part.file, place, ATOMIC_MOVE)
        part.forget()
    }

    /**
     * Puts another file's content there, by a second name for it where the system gives one, else a copy. False where it
     * is not the one wanted.
     */
    suspend fun reuse(from: Path, entry: FileEntry, name: String): Boolean {
        if (sizeOf(from) != entry.bytes) return false
        val part = part(entry)
        part.restart()
        try {
            Files.createLink(part.file, from)
        } catch (_: Exception) { // UnsupportedOperationException; Android refuses by IOException or SecurityException
            return Files.newInputStream(from, NOFOLLOW_LINKS).use { copy(it, entry, name) }
        }
        return placeIfRight(part, entry, name)
    }

    /** Puts what a stream gives there. False where it is not the file wanted; no byte beyond its size is read but one. */
    suspend fun copy(from: InputStream, entry: FileEntry, name: String): Boolean {
        val part = part(entry)
        part.restart()
        part.append().use { file ->
            val block = ByteArray(COPIED)
            var left = entry.bytes
            while (left > 0) {
                currentCoroutineContext().ensureActive()
                val count = from.read(block, 0, minOf(COPIED.toLong(), left).toInt())
                if (count < 0) break
                file.write(block, 0, count)
                left -= count
            }
            if (left > 0 || from.read() >= 0) part.restart()
        }
        return placeIfRight(part, entry, name)
    }

    private suspend fun placeIfRight(part: Part, entry: FileEntry, name: String): Boolean {
        // Only reading may go on after a cancellation: whoever has the lock next shall not find somebody at work.
        val isRight = sizeOf(part.file) == entry.bytes && blocking { fileSha256(part.file) } == entry.sha256
        if (isRight) place(part, name) else part.restart()
        return isRight
    }

    fun placeManifest(text: ByteArray) {
        val whole = parts.resolve("$MANIFEST.part")
        Files.write(whole, text)
        sync(whole)
        Files.move(whole, bundle.resolve(MANIFEST), ATOMIC_MOVE)
    }

    /**
     * Opens what was put together as an app would, and renames it into its place.
     *
     * @throws PocketVlmException its files are whole and no bundle that this library runs; nothing of it stays
     */
    fun install(): Path {
        try {
            openBundle(bundle.toFile())
        } catch (error: PocketVlmException) {
            drop()
            throw error
        }
        return moveIntoPlace(bundle, home.resolve(digest)).also { drop() }
    }

    /** Takes a directory that has the whole bundle already, in place of what is there of it. */
    fun take(whole: Path) {
        discard(bundle)
        Files.move(whole, bundle, ATOMIC_MOVE)
    }

    /** Removes what is there. */
    fun drop(): Unit = discard(root)
}

/** Renames a whole bundle to where it is found; what stands there is none that opens, and goes. */
internal fun moveIntoPlace(bundle: Path, place: Path): Path {
    Files.walk(bundle).use { all -> all.filter { Files.isDirectory(it, NOFOLLOW_LINKS) }.forEach(::syncDirectory) }
    discard(place)
    Files.move(bundle, place, ATOMIC_MOVE)
    syncDirectory(place.parent)
    return place
}

/** The beginning of a file, and by which tag the server knows the version that it is of. */
internal class Part(val file: Path, private val tagFile: Path) {
    val length: Long get() = sizeOf(file) ?: 0

    /** The strong ETag of what is there; null where none was said. */
    var tag: String?
        get() = if (sizeOf(tagFile) in 1..MAX_TAG) String(Files.readAllBytes(tagFile)) else null
        set(value) {
            if (value == null) Files.deleteIfExists(tagFile) else Files.write(tagFile, value.toByteArray())
        }

    /** Forgets what is there. */
    fun restart() {
        Files.deleteIfExists(file)
        forget()
    }

    fun forget() {
        Files.deleteIfExists(tagFile)
    }

    fun append(): OutputStream = Files.newOutputStream(file, CREATE, WRITE, APPEND, NOFOLLOW_LINKS)
}

/** Characters of an ETag that is kept. */
internal const val MAX_TAG: Long = 1024
