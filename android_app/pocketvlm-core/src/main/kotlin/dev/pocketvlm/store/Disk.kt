package dev.pocketvlm.store

import dev.pocketvlm.bundle.deleteTree
import java.io.IOException
import java.nio.channels.FileChannel
import java.nio.file.Files
import java.nio.file.LinkOption.NOFOLLOW_LINKS
import java.nio.file.Path
import java.nio.file.StandardCopyOption.ATOMIC_MOVE
import java.nio.file.StandardOpenOption.READ
import java.nio.file.attribute.BasicFileAttributes
import java.util.UUID

/** [sync] for names of a directory, as far as the system can. */
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
