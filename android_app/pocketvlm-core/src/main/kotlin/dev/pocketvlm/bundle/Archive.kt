package dev.pocketvlm.bundle

import dev.pocketvlm.PocketVlmException.BundleDamaged
import java.io.EOFException
import java.io.File
import java.io.IOException
import java.io.InputStream
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.channels.FileChannel
import java.nio.file.FileAlreadyExistsException
import java.nio.file.Files
import java.nio.file.LinkOption.NOFOLLOW_LINKS
import java.nio.file.Path
import java.nio.file.StandardCopyOption.ATOMIC_MOVE
import java.nio.file.StandardOpenOption.CREATE_NEW
import java.nio.file.StandardOpenOption.WRITE
import java.security.MessageDigest
import java.util.zip.CRC32

private const val MAX_MEMBERS = 4096
private const val MEMBER = 0x04034b50
private const val ENTRY = 0x02014b50
private const val END_64 = 0x06064b50
private const val LOCATOR_64 = 0x07064b50
private const val END = 0x06054b50
private const val ALL_32 = 0xffffffffL
private const val ALL_16 = 0xffff

/** Of a member's flags: how well a compressed one is compressed, and that its name is UTF-8. */
private const val HARMLESS_FLAGS = 0x0806
private const val NEWEST = 63
private const val BLOCK = 1 shl 16

/**
 * Unpacks a bundle that is one `.zip` (docs/bundle-format.md) to [directory], which appears whole and checked, by renaming
 * `[directory].part`, or not at all. Each file's SHA-256 is compared; files that the manifest does not list are left out.
 * Read once from its beginning to its end; does not close [source]. [settle] is called with each file before the directory
 * gets its name. Blocks: not for the main thread.
 *
 * @throws BundleDamaged it is no such archive, damaged or hostile
 * @throws dev.pocketvlm.PocketVlmException.BundleTooNew only a newer library reads it
 * @throws IOException [directory] is there already, [source] fails (also with whatever else it throws), or the disk does
 */
internal fun unpackArchive(source: InputStream, directory: File, settle: (Path) -> Unit = ::sync) {
    val target = directory.absoluteFile.toPath()
    if (Files.exists(target, NOFOLLOW_LINKS)) throw FileAlreadyExistsException(target.toString())
    val partial = target.resolveSibling("${target.fileName}.part")
    deleteTree(partial)
    try {
        Files.createDirectories(partial)
        val digests = ArchiveReader(source).unpack(partial)
        val files = openBundle(partial.toFile()).manifest.files
        for ((name, entry) in files) checkDigest(name, digests[name].orEmpty(), entry.sha256)
        for (name in digests.keys - files.keys - MANIFEST) Files.delete(partial.resolve(name))
        for (name in files.keys + MANIFEST) settle(partial.resolve(name))
        Files.move(partial, target, ATOMIC_MOVE)
    } finally {
        deleteTree(partial)
    }
}

/** Whether a file begins as an archive does. */
internal fun isArchive(path: Path): Boolean = Files.isRegularFile(path) && open(path).use { file ->
    val start = ByteArray(4)
    file.size() >= start.size && littleEndian(start.also { file.readExactly(0, it, it.size) }).int == MEMBER
}

private fun littleEndian(bytes: ByteArray): ByteBuffer = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN)

private fun ByteBuffer.unsigned(): Int = short.toInt() and 0xffff

private fun ByteBuffer.unsigned32(): Long = int.toLong() and ALL_32

private fun ByteBuffer.skip(count: Int): ByteBuffer = also { position(position() + count) }

/** What a header says of a member: [flags] and what follows; it begins at [offset], and has [size] bytes. */
private data class Member(val flags: Int, val method: Int, val crc: Long, val packed: Long, val size: Long, val offset: Long)

/** An archive from its beginning to its end: members one behind the other, each of a size that is said before it. */
private class ArchiveReader(private val source: InputStream) {
    private val members = HashMap<String, Member>()
    private val digests = LinkedHashMap<String, String>()
    private val folders = HashSet<String>()
    private val block = ByteArray(BLOCK)
    private var at = 0L

    /** Writes the members below [folder]; their SHA-256 by name. */
    fun unpack(folder: Path): Map<String, String> = try {
        var signature = signature()
        while (signature == MEMBER) {
            member(folder)
            signature = signature()
        }
        var entries = 0
        while (signature == ENTRY) {
            entry()
            entries++
            signature = signature()
        }
        if (entries != members.size) damaged("its directory lists other members")
        end(signature)
        digests
    } catch (error: EOFException) {
        throw BundleDamaged("the archive is cut short", error)
    }

    private fun damaged(why: String): Nothing = throw BundleDamaged("the archive is damaged, or no bundle: $why")

    private fun signature(): Int = header(4).int

    private fun header(size: Int): ByteBuffer = littleEndian(ByteArray(size).also { read(it, size) })

    private fun read(to: ByteArray, count: Int) {
        var filled = 0
        while (filled < count) {
            val got = source.read(to, filled, count - filled)
            if (got < 0) throw EOFException()
            filled += got
        }
        at += count
    }

    /** Of the format, in tenths: what a reader has to know. */
    private fun version(needed: Int) {
        if (needed > NEWEST) damaged("it is of another version of ZIP")
    }

    /** A name by Latin 1: whatever is no ASCII is none that a bundle may use. */
    private fun name(length: Int): String = String(header(length).array(), Charsets.ISO_8859_1)

    private fun member(folder: Path) {
        val start = at - 4
        if (members.size == MAX_MEMBERS) damaged("it has more than $MAX_MEMBERS members")
        val header = header(26)
        version(header.unsigned())
        val flags = header.unsigned()
        val method = header.unsigned()
        val crc = header.skip(4).unsigned32()
        val member = Member(flags, method, crc, header.unsigned32(), header.unsigned32(), start)
        val name = name(header.unsigned())
        val shown = oneLine(name, 80)
        header(header.unsigned()) // the padding up to a page
        if (method != 0 || member.packed != member.size || flags and HARMLESS_FLAGS.inv() != 0) {
            damaged("$shown is compressed, encrypted, or of a size that is not said before it")
        }
        if (member.size == ALL_32) damaged("$shown has 4 GB or more")
        if (members.put(name, member) != null) damaged("it has two members of the name $shown")
        when {
            isFileName(name) -> {
                val above = name.indices.filter { name[it] == '/' }.map { name.substring(0, it) }
                if (name in folders || above.any(digests::containsKey)) damaged("'$shown' is a folder and a file")
                folders.addAll(above)
                digests[name] = copied(member, place(folder, name))
            }
            // a folder, as other tools write them
            !(member.size == 0L && name.endsWith("/") && isFileName(name.dropLast(1))) ->
                damaged("'$shown' is not a file name that a bundle may use")
        }
    }

    /** Where a member goes; on some disks two names are one file's. */
    private fun place(folder: Path, name: String): FileChannel = try {
        val path = folder.resolve(name)
        Files.createDirectories(path.parent)
        FileChannel.open(path, CREATE_NEW, WRITE)
    } catch (error: FileAlreadyExistsException) {
        throw BundleDamaged("the archive has '${oneLine(name, 80)}' twice", error)
    }

    private fun copied(member: Member, to: FileChannel): String = to.use {
        val digest = MessageDigest.getInstance("SHA-256")
        val crc = CRC32()
        var left = member.size
        while (left > 0) {
            val count = minOf(left, block.size.toLong()).toInt()
            read(block, count)
            digest.update(block, 0, count)
            crc.update(block, 0, count)
            val buffer = ByteBuffer.wrap(block, 0, count)
            while (buffer.hasRemaining()) to.write(buffer)
            left -= count
        }
        if (crc.value != member.crc) damaged("a member's checksum is another")
        hexadecimal(digest.digest())
    }

    /** The directory at the end says the same of a member: readers that begin there see the same bundle. */
    private fun entry() {
        val header = header(42).skip(2)
        version(header.unsigned())
        val flags = header.unsigned()
        val method = header.unsigned()
        val crc = header.skip(4).unsigned32()
        val packed = header.unsigned32()
        val size = header.unsigned32()
        val nameLength = header.unsigned()
        val extraLength = header.unsigned()
        val commentLength = header.unsigned()
        val offset = header.skip(8).unsigned32()
        val name = name(nameLength)
        val extra = header(extraLength)
        header(commentLength)
        val said = Member(flags, method, crc, packed, size, if (offset == ALL_32) largeOffset(extra) else offset)
        if (members[name] != said) damaged("its directory says otherwise of ${oneLine(name, 80)}")
    }

    /** ZIP64's field has what does not fit into 32 bits: the offset alone, since sizes do. */
    private fun largeOffset(extra: ByteBuffer): Long {
        while (extra.remaining() >= 4) {
            val id = extra.unsigned()
            val size = extra.unsigned()
            if (size > extra.remaining()) break
            if (id == 1 && size >= 8) return extra.long
            extra.skip(size)
        }
        damaged("an offset is missing")
    }

    private fun end(first: Int) {
        var signature = first
        if (signature == END_64) {
            val size = header(8).long
            if (size !in 0..ALL_16) damaged("its end is none")
            header(size.toInt())
            signature = signature()
        }
        if (signature == LOCATOR_64) {
            header(16)
            signature = signature()
        }
        if (signature != END) damaged("where a member or its end is to be, there is none")
        val header = header(18).skip(6)
        val count = header.unsigned()
        if (count != members.size && count != ALL_16) damaged("its end counts other members")
        header(header.skip(8).unsigned())
        if (source.read() >= 0) damaged("something follows its end")
    }
}
