package dev.pocketvlm.sample

import android.graphics.Bitmap
import android.graphics.BitmapFactory
import dev.pocketvlm.Chat
import dev.pocketvlm.Message
import dev.pocketvlm.PocketVlm
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.withContext
import java.io.File
import java.io.IOException

/** A chat on the disk, with small pictures of what its messages show: the model itself keeps what it has encoded. */
internal class KeptChat(private val directory: File) {
    private val chat = File(directory, "chat")

    val file: File? get() = chat.takeIf { it.isFile }

    fun delete() {
        directory.deleteRecursively()
    }

    suspend fun save(from: Chat, pictures: Map<Int, List<SeenPicture>>) {
        val copies = pictures.mapValues { it.value.toList() }
        withContext(Dispatchers.IO) {
            directory.mkdirs()
            for ((index, shown) in copies) shown.forEachIndexed { which, picture -> write(picture, index, which) }
        }
        from.save(chat)
    }

    suspend fun pictures(messages: List<Message>, model: PocketVlm): Map<Int, List<SeenPicture>> =
        withContext(Dispatchers.IO) {
            messages.withIndex().filter { it.value.images.isNotEmpty() }.associate { (index, message) ->
                index to message.images.mapIndexed { which, image ->
                    val bitmap = BitmapFactory.decodeFile(place(index, which).path)
                    SeenPicture(image.width, image.height, bitmap, model.preview(image.width, image.height))
                }
            }
        }

    private fun place(index: Int, which: Int) = File(directory, "$index-$which.jpg")

    private fun write(picture: SeenPicture, index: Int, which: Int) {
        val place = place(index, which)
        val bitmap = picture.bitmap ?: return
        if (place.exists()) return
        try {
            place.outputStream().use { bitmap.compress(Bitmap.CompressFormat.JPEG, QUALITY, it) }
        } catch (_: IOException) {
            place.delete() // the chat can be kept without it
        }
    }

    private companion object {
        const val QUALITY = 85
    }
}
