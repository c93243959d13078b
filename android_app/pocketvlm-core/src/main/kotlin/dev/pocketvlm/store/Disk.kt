package dev.pocketvlm.store

import java.io.IOException
import java.nio.channels.FileChannel
import java.nio.file.FileVisitResult
import java.nio.file.Files
import java.nio.file.LinkOption.NOFOLLOW_LINKS
import java.nio.file.Path
import java.nio.file.SimpleFileVisitor
import java.nio.file.StandardCopyOption.ATOMIC_MOVE
import java.nio.file.StandardOpenOption.READ
import java.nio.file.StandardOpenOption.WRITE
import java.nio.file.attribute.BasicFileAttributes
import java.util.UUID

/** Waits until the file's bytes are on the disk, so that no name can stand for fewer after a power cut. */
internal fun sync(file: Path): Unit = FileChannel.open(file, WRITE, NOFOLLOW_LINKS).use { it.force(true) }

/** The same for names of a directory, as far as the system can. */
internal fun syncDirectory(directory: Path) {
    try {
        FileChannel.open(directory, READ).use { it.force(true) }
    } catch (_: IOException) {
        // Some systems open no directories; a bundle's sizes are looked at again before it is listed.
    }
}

/** Size in bytes of a regular file that is no link; null where there is none. */
internal fun sizeOf(file: Path): Long? = try {
    Files.readAttributes(file, BasicFileAttributes::class.java, NOFOLLOW_LINKS).takeIf { it.isRegularFile }?.size()
} catch (_: IOException) {
    null
}

/** Removes a file or directory with all that is in it; links are removed and not followed. */
internal fun deleteTree(root: Path) {
    if (!Files.exists(root, NOFOLLOW_LINKS)) return
    Files.walkFileTree(root, object : SimpleFileVisitor<Path>() {
        override fun visitFile(file: Path, attributes: BasicFileAttributes): FileVisitResult {
            Files.deleteIfExists(file)
            return FileVisitResult.CONTINUE
        }

        override fun visitFileFailed(file: Path, error: IOException) = FileVisitResult.CONTINUE

        override fun postVisitDirectory(directory: Path, error: IOException?): FileVisitResult {
            Files.deleteIfExists(directory)
            return FileVisitResult.CONTINUE
        }
    })
}

/** What begins so was moved aside to be deleted, and may be deleted by anybody. */
internal const val DELETED = ".deleted-"

/** Takes a directory out of its place in one step, then deletes it: one that is half deleted is never seen there. */
internal fun discard(directory: Path) {
    if (!Files.exists(directory, NOFOLLOW_LINKS)) return
    val aside = directory.resolveSibling("$DELETED${UUID.randomUUID()}")
    Files.move(directory, aside, ATOMIC_MOVE)
    deleteQuietly(aside)
}

/** Deletes what it can; somebody else may be at it as well. */
internal fun deleteQuietly(root: Path) {
    try {
        deleteTree(root)
    } catch (_: IOException) {
        // It is out of the way, and is tried again before the next bundle is put together.
    }
}

/** Children of a directory, by name; none where it is not there. */
internal fun childrenOf(directory: Path): List<Path> =
    directory.toFile().list()?.sorted()?.map(directory::resolve) ?: emptyList()
