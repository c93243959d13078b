package dev.pocketvlm.bundle

import dev.pocketvlm.ONNXRUNTIME_VERSION
import dev.pocketvlm.PocketVlmException.BundleDamaged
import dev.pocketvlm.PocketVlmException.BundleTooNew
import dev.pocketvlm.PocketVlmException.NotPortable
import dev.pocketvlm.VERSION
import java.io.File
import java.io.IOException
import java.nio.file.Files
import java.nio.file.InvalidPathException
import java.nio.file.LinkOption.NOFOLLOW_LINKS
import java.nio.file.Path
import java.nio.file.attribute.BasicFileAttributes

/** Bytes. */
internal const val MAX_MANIFEST: Long = 16L shl 20
internal const val MANIFEST: String = "manifest.json"

/** A directory whose manifest and files were checked. */
internal class Bundle(private val directory: Path, val manifest: Manifest) {
    /**
     * Where the file of the manifest lies, which is inside the directory.
     *
     * @throws BundleDamaged a folder on the way is missing, or a link that leads elsewhere
     */
    fun path(name: String): Path {
        if (!isFileName(name)) throw BundleDamaged("'${oneLine(name, 80)}' is not a file name that a bundle may use")
        val whole = directory.resolve(name)
        val parent = try {
            whole.parent.toRealPath()
        } catch (error: IOException) {
            throw BundleDamaged("$name is missing: copy or export the bundle again", error)
        }
        if (parent != directory.toRealPath().resolve(name).parent) throw BundleDamaged("$name points outside the bundle")
        return whole
    }

    /** The whole of a file that has at most [most] bytes. */
    fun read(name: String, most: Long): ByteArray = readBounded(path(name), name, most)
}

/**
 * Opens a directory: its manifest, its files' sizes, then the sample of each file's content, or with [verify] all of it, and
 * its graphs, which are held to the grammar of docs/bundle-format.md.
 *
 * @throws BundleDamaged naming the file or the key that is wrong
 * @throws BundleTooNew only a newer library reads it
 * @throws NotPortable it is an archive, which ONNX Runtime reads no graphs from: [unpackArchive] makes a directory of it
 */
internal fun openBundle(location: File, verify: Boolean = false, onFiles: () -> Unit = {}): Bundle = try {
    val directory = location.toPath()
    if (isArchive(directory)) throw NotPortable("${shown(location)} is an archive: unpack it, and open the directory that this makes")
    if (!Files.isDirectory(directory)) throw BundleDamaged("${shown(location)} is not a bundle: no such directory")
    val path = directory.resolve(MANIFEST)
    val bundle = Bundle(directory, parseManifest(readBounded(path, path.toString(), MAX_MANIFEST), path.toString()))
    val files = bundle.manifest.files
    onFiles()
    for ((name, entry) in files) checkSize(bundle.path(name), name, entry)
    for ((name, entry) in files) {
        checkDigest(name, sampleSha256(bundle.path(name)), entry.sampleSha256)
        if (verify) checkDigest(name, fileSha256(bundle.path(name)), entry.sha256)
    }
    checkGraphs(bundle)
    bundle
} catch (error: IOException) {
    throw BundleDamaged("${shown(location)} cannot be read: ${oneLine(error.toString(), 160)}", error)
} catch (error: InvalidPathException) {
    throw BundleDamaged("${shown(location)} is not a bundle: no such directory", error)
}

private fun shown(location: File) = oneLine(location.path, 200)

/** Sizes in bytes; links are not followed. */
private fun regularSize(path: Path, name: String): Long {
    val attributes = try {
        Files.readAttributes(path, BasicFileAttributes::class.java, NOFOLLOW_LINKS)
    } catch (error: IOException) {
        throw BundleDamaged("${oneLine(name, 200)} is missing: copy or export the bundle again", error)
    }
    if (!attributes.isRegularFile) throw BundleDamaged("${oneLine(name, 200)} is not a regular file")
    return attributes.size()
}

/** All sizes are looked at before any content. */
private fun checkSize(path: Path, name: String, entry: FileEntry) {
    val size = regularSize(path, name)
    if (size != entry.bytes) {
        throw BundleDamaged("$name has $size bytes, the manifest says ${entry.bytes}: it was cut or replaced")
    }
}

internal fun checkDigest(name: String, found: String, wanted: String) {
    if (found != wanted) {
        throw BundleDamaged("$name does not have the content that the manifest describes: it is damaged or was swapped")
    }
}

private fun readBounded(path: Path, name: String, most: Long): ByteArray {
    val size = regularSize(path, name)
    if (size > most) throw BundleDamaged("${oneLine(name, 200)} is larger than $most bytes")
    val content = ByteArray(size.toInt())
    open(path).use { file -> file.readExactly(0, content, content.size) }
    return content
}

/**
 * What the schema cannot say: parts of the manifest that must fit each other, and versions that it needs.
 *
 * @throws BundleDamaged naming what does not fit
 * @throws BundleTooNew it needs a newer library, or a newer ONNX Runtime
 */
internal fun checkLoadable(manifest: Manifest) {
    checkMinimum("pocketvlm", manifest.minimumPocketvlm, VERSION)
    manifest.minimumOnnxruntime?.let { checkMinimum("onnxruntime", it, ONNXRUNTIME_VERSION) }
    manifest.chat?.let { chat ->
        if (!chat.roles.keys.containsAll(setOf("user", "assistant"))) {
            throw BundleDamaged("the manifest's chat layout lacks the user or the assistant")
        }
        if (chat.defaultSystem != null && "system" !in chat.roles) {
            throw BundleDamaged("the manifest's chat layout has a default system message and no system role")
        }
    }
    if (manifest.vision != null && manifest.imageLayout != null) {
        visionProblem(manifest.vision, manifest.imageLayout)?.let { throw BundleDamaged("the manifest is not valid: $it") }
    }
}

private fun checkMinimum(library: String, minimum: String, installed: String) {
    if (!VERSION_PATTERN.matches(minimum)) throw BundleDamaged("the manifest's minimum_runtime.$library is no version")
    if (isOlder(installed, minimum)) {
        throw BundleTooNew("the bundle needs $library $minimum or newer, $installed is installed: update it")
    }
}
