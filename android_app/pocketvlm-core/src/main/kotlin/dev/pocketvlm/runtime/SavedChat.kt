package dev.pocketvlm.runtime

import dev.pocketvlm.Chat
import dev.pocketvlm.ChatConfig
import dev.pocketvlm.Image
import dev.pocketvlm.Message
import dev.pocketvlm.PocketVlmException
import dev.pocketvlm.PocketVlmException.ChatInvalid
import dev.pocketvlm.Role
import dev.pocketvlm.TokenBudget
import dev.pocketvlm.images.MAX_PIXELS
import dev.pocketvlm.images.MAX_SIDE
import dev.pocketvlm.images.Size
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.withContext
import java.io.BufferedInputStream
import java.io.BufferedOutputStream
import java.io.DataInputStream
import java.io.DataOutputStream
import java.io.File
import java.io.FileInputStream
import java.io.FileOutputStream
import java.io.IOException
import java.nio.ByteBuffer
import java.nio.file.Files
import java.nio.file.StandardCopyOption.ATOMIC_MOVE
import java.nio.file.StandardCopyOption.REPLACE_EXISTING
import java.security.DigestInputStream
import java.security.DigestOutputStream
import java.security.MessageDigest

private const val MAGIC = "pocketvlm-chat-1"
private const val MAX_MESSAGES = 1 shl 14
private const val MAX_PICTURES = 1 shl 12
private const val MAX_TEXT = 1 shl 22 // bytes
private const val BLOCK = 1 shl 16

/**
 * Writes a conversation: [MAGIC], the bundle's SHA-256, messages, each picture's size, digest and tokens, then what the KV
 * cache holds, its rows, head by head, and its state with the copies of it; at the end the SHA-256 of it all. The text thread
 * is busy while rows are written.
 */
internal suspend fun writeChat(
    to: File,
    model: LoadedModel,
    session: Session,
    config: ChatConfig,
    messages: List<Message>,
    budget: TokenBudget,
    withCache: Boolean,
) {
    val pictures = messages.flatMap { it.images }.map { model.prepare(it) }.distinctBy { it.digest }
    val part = File(to.absoluteFile.parentFile, ".${to.name}.part")
    try {
        withContext(Dispatchers.IO) {
            FileOutputStream(part).use { file ->
                val digest = MessageDigest.getInstance("SHA-256")
                val out = DataOutputStream(DigestOutputStream(BufferedOutputStream(file, BLOCK), digest))
                out.writeHead(model, config, messages, budget, pictures.map { it.digest })
                for (picture in pictures) out.writePicture(picture, tokensOf(picture, model))
                model.withSessions { out.writeCache(session, withCache, pictures.map { it.digest }) }
                out.write(digest.digest())
                out.flush()
                file.fd.sync()
            }
            Files.move(part.toPath(), to.toPath(), ATOMIC_MOVE, REPLACE_EXISTING)
        }
    } finally {
        part.delete()
    }
}

private suspend fun tokensOf(picture: Picture, model: LoadedModel): FloatArray {
    val encoder = checkNotNull(model.encoder)
    val encoded = encoder.start(picture)
    try {
        return encoded.tokens.await()
    } finally {
        encoder.release(encoded)
    }
}

private fun DataOutputStream.writeHead(
    model: LoadedModel,
    config: ChatConfig,
    messages: List<Message>,
    budget: TokenBudget,
    digests: List<String>,
) {
    writeUTF(MAGIC)
    writeUTF(model.manifest.sha256)
    writeBoolean(config.dropOldest)
    writeInt(budget.used)
    writeInt(budget.ofImages)
    writeInt(digests.size)
    writeInt(messages.size)
    for (message in messages) {
        writeInt(message.role.ordinal)
        val text = message.text.toByteArray()
        if (text.size > MAX_TEXT) throw ChatInvalid("a message has ${text.size} bytes, $MAX_TEXT can be saved")
        writeInt(text.size)
        write(text)
        writeInt(message.images.size)
        for (image in message.images) writeInt(digests.indexOf(checkNotNull(image.picture).digest))
    }
}

private fun DataOutputStream.writePicture(picture: Picture, tokens: FloatArray) {
    writeInt(picture.size.width)
    writeInt(picture.size.height)
    writeUTF(picture.digest)
    val bytes = ByteBuffer.allocate(BLOCK)
    for (first in tokens.indices step BLOCK / Float.SIZE_BYTES) {
        val count = minOf(BLOCK / Float.SIZE_BYTES, tokens.size - first)
        bytes.clear()
        bytes.asFloatBuffer().put(tokens, first, count)
        write(bytes.array(), 0, count * Float.SIZE_BYTES)
    }
}

/** Positions as two numbers: a token's id and 0, or a picture's index before -1 and the row of its tokens. */
private fun DataOutputStream.writeCache(session: Session, withCache: Boolean, digests: List<String>) {
    val cache = session.cacheIfHeld.takeIf { withCache }
    val keys = if (cache == null) emptyList() else session.keys
    // A position whose picture is in no message any more cannot be said; what follows it is computed again.
    val known = keys.takeWhile { it is Int || (it as Pair<*, *>).first in digests }
    writeInt(known.size)
    for (key in known) {
        val picture = key as? Pair<*, *>
        writeInt(if (picture == null) key as Int else -1 - digests.indexOf(picture.first))
        writeInt(picture?.second as Int? ?: 0)
    }
    if (cache == null || known.isEmpty()) return
    cache.forRows(known.size, ::writeBytes)
    val states = cache.states ?: return
    val copies = states.kept(known.size)
    writeInt(copies.size)
    for (position in copies) {
        writeInt(position)
        writeBytes(states.bytes(position))
    }
    val isWhole = known.size == keys.size
    writeBoolean(isWhole)
    if (isWhole) writeBytes(states.bytes(null))
}

private fun DataOutputStream.writeBytes(from: ByteBuffer) {
    val block = ByteArray(minOf(BLOCK, from.remaining()))
    while (from.hasRemaining()) {
        val count = minOf(BLOCK, from.remaining())
        from.get(block, 0, count)
        write(block, 0, count)
    }
}

/**
 * Reads what [writeChat] wrote.
 *
 * @throws ChatInvalid it is damaged, or of a conversation with another bundle
 */
internal suspend fun restoredChat(model: LoadedModel, saved: File): Chat {
    model.checkOpen()
    val session = model.newSession()
    return try {
        withContext(Dispatchers.IO) {
            FileInputStream(saved).use { file ->
                val digest = MessageDigest.getInstance("SHA-256")
                val input = DataInputStream(DigestInputStream(BufferedInputStream(file, BLOCK), digest))
                ChatReader(model, input, digest).read(session)
            }
        }
    } catch (error: IOException) {
        model.release(session)
        throw ChatInvalid("${saved.name} cannot be read, or was cut: start a new conversation", error)
    } catch (error: PocketVlmException) {
        model.release(session)
        throw error
    }
}

private class ChatReader(
    private val model: LoadedModel,
    private val input: DataInputStream,
    private val digest: MessageDigest,
) {
    private val manifest = model.manifest
    private val capacity = manifest.kvCache.length

    suspend fun read(session: Session): Chat {
        if (input.readUTF() != MAGIC) damaged()
        if (input.readUTF() != manifest.sha256) throw ChatInvalid("the conversation was saved with another bundle")
        val dropOldest = input.readBoolean()
        val used = number(2 * capacity)
        val budget = TokenBudget(capacity, used, number(used))
        val count = number(if (manifest.vision == null) 0 else MAX_PICTURES)
        val said = List(number(MAX_MESSAGES)) { said(count) }
        val pictures = List(count) { picture() }
        val messages = said.map { (role, text, images) -> Message(role, text, images.map { Image(pictures[it]) }) }
        model.withSessions { readCache(session, pictures) }
        val found = digest.digest()
        val wanted = ByteArray(found.size).also(input::readFully)
        if (!MessageDigest.isEqual(found, wanted) || input.read() >= 0) damaged()
        return Chat(model, ChatConfig(dropOldest = dropOldest, history = messages), session, budget)
    }

    private fun said(pictures: Int): Triple<Role, String, List<Int>> {
        val role = Role.values()[number(Role.values().size - 1)]
        val text = ByteArray(number(MAX_TEXT)).also(input::readFully)
        return Triple(role, String(text), List(number(pictures)) { number(pictures - 1) })
    }

    private fun picture(): Picture {
        val size = Size(number(MAX_SIDE), number(MAX_SIDE))
        if (size.width < 1 || size.height < 1 || size.width.toLong() * size.height > MAX_PIXELS) damaged()
        val name = input.readUTF()
        val tokens = tilingOf(size, manifest).tokens
        if (tokens > capacity) damaged()
        val numbers = FloatArray(Math.multiplyExact(tokens, Math.toIntExact(manifest.enteringWidth)))
        val bytes = ByteArray(BLOCK)
        for (first in numbers.indices step BLOCK / Float.SIZE_BYTES) {
            val count = minOf(BLOCK / Float.SIZE_BYTES, numbers.size - first)
            input.readFully(bytes, 0, count * Float.SIZE_BYTES)
            ByteBuffer.wrap(bytes).asFloatBuffer().get(numbers, first, count)
        }
        return Picture.saved(size, name, numbers, manifest)
    }

    private fun readCache(session: Session, pictures: List<Picture>) {
        val keys = List(number(capacity)) {
            val id = input.readInt()
            val row = input.readInt()
            if (id >= 0) {
                if (id >= manifest.model.vocabSize || row != 0) damaged()
                id
            } else {
                val picture = pictures.getOrNull(-1 - id) ?: damaged()
                if (row !in 0 until picture.tokens) damaged()
                picture.digest to row
            }
        }
        if (keys.isEmpty()) return
        val cache = session.cache()
        cache.forRows(keys.size, ::readBytes)
        cache.restored(cache.states?.let { readStates(it, keys.size) } ?: keys.size)
        session.keys.addAll(keys.take(cache.position))
    }

    /** The state behind so many tokens, or its last copy before; gives behind how many it is. */
    private fun readStates(states: States, tokens: Int): Int {
        var last = 0
        repeat(number(SNAPSHOTS)) {
            val position = number(tokens)
            if (position <= last) damaged()
            readBytes(states.room(position))
            last = position
        }
        if (!input.readBoolean()) return states.rewind(tokens)
        readBytes(states.room(null))
        return tokens
    }

    private fun readBytes(into: ByteBuffer) {
        val block = ByteArray(minOf(BLOCK, into.remaining()))
        while (into.hasRemaining()) {
            val count = minOf(BLOCK, into.remaining())
            input.readFully(block, 0, count)
            into.put(block, 0, count)
        }
    }

    private fun number(most: Int): Int = input.readInt().also { if (it !in 0..most) damaged() }

    private fun damaged(): Nothing = throw ChatInvalid("the saved conversation is damaged: start a new one")
}
